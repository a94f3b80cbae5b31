package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

const drainWithin = 2 * time.Second // for callers to read what is left when sandboxd ends

// Run serves one sandbox until ctx ends or nobody calls any more; both are orderly ends and return nil. When it returns the
// harness is closed, everything started for the sandbox is gone and exit.json says why it ended. It changes nothing of the
// process it runs in; Main does.
func Run(ctx context.Context, c Config, harnesses map[string]harness.Harness, log *slog.Logger) error {
	p, err := takePlace(c.Dir)
	if err != nil {
		return err
	}
	reason, err := serve(ctx, c, harnesses, log)
	code := 0
	if err != nil {
		code, reason = 1, err.Error()
	}
	killStrays(c.SandboxID, false)
	log.Info("sandboxd ends", "reason", reason)
	return errors.Join(err, p.leave(code, reason))
}

func serve(ctx context.Context, c Config, harnesses map[string]harness.Harness, log *slog.Logger) (reason string, err error) {
	if err := c.validate(); err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	s, err := openSession(c, harnesses, log)
	if err != nil {
		return "", err
	}
	listener, err := listen(ctx, c)
	if err != nil {
		return "", errors.Join(err, s.events.close())
	}
	log.Info("sandboxd serves", "sandbox_id", c.SandboxID, "addr", listener.Addr().String(), "version", version())
	d := daemon{s: s, gate: newGate(c), log: log, listener: listener}
	return d.run(ctx)
}

func listen(ctx context.Context, c Config) (net.Listener, error) {
	var lc net.ListenConfig
	if c.Socket == "" {
		return lc.Listen(ctx, "tcp", c.Listen)
	}
	path := filepath.Join(c.Dir, c.Socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect socket: %w", err), l.Close())
	}
	return l, nil
}

// daemon is the session, the server in front of it, and the order in which they end.
type daemon struct {
	s        *session
	gate     *gate
	log      *slog.Logger
	listener net.Listener
}

func (d *daemon) run(ctx context.Context) (reason string, err error) {
	sessionCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	attached := newTerminals()
	srv := &http.Server{
		Handler:           (&api{s: d.s, log: d.log, beat: heartbeat, terminals: attached}).handler(d.gate),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
	ended, served := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(ended)
		d.s.run(sessionCtx)
	}()
	go func() { served <- srv.Serve(d.listener) }()

	reason, err = d.wait(ctx, served)
	d.s.stopping()
	stop()
	<-ended
	d.s.closeEgress()
	d.s.events.end()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
	defer cancel()
	var farewell sync.WaitGroup
	farewell.Go(func() { attached.end(drain) })
	if srv.Shutdown(drain) != nil {
		err = errors.Join(err, srv.Close())
	}
	farewell.Wait()
	return reason, errors.Join(err, d.s.events.close())
}

// wait returns why the daemon is to end.
func (d *daemon) wait(ctx context.Context, served <-chan error) (string, error) {
	idle := d.s.c.idleExit()
	var check <-chan time.Time
	if idle > 0 {
		ticker := time.NewTicker(max(idle/20, time.Millisecond))
		defer ticker.Stop()
		check = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return "it was asked to stop", nil
		case err := <-served:
			return "", fmt.Errorf("serve: %w", err)
		case <-check:
			if d.gate.quiet() >= idle {
				return "no caller for " + spoken(idle), nil
			}
		}
	}
}

func spoken(d time.Duration) string {
	if d >= 2*time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return d.String()
}
