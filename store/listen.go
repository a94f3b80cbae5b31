package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// channel carries "<instance>:<session id><mark of its extent>".
	channel = "lap_sessions"
	// probeEvery is how long a silent connection is trusted, and how long the
	// server has to answer a probe.
	probeEvery = 2 * time.Second
	retryEvery = time.Second
)

// listener passes on the notifications of other processes. Its goroutine owns
// the connection.
type listener struct {
	config   *pgx.ConnConfig
	instance string
	hub      *hub
	log      *slog.Logger
	cancel   context.CancelFunc
	done     chan struct{}
}

// listen returns once the first connection listens.
func listen(ctx context.Context, config *pgx.ConnConfig, instance string, h *hub, log *slog.Logger) (*listener, error) {
	l := &listener{config: config, instance: instance, hub: h, log: log, done: make(chan struct{})}
	conn, err := l.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", translate(ctx, err))
	}
	ctx, l.cancel = context.WithCancel(context.Background())
	go l.run(ctx, conn)
	return l, nil
}

// stop ends the goroutine and waits for it.
func (l *listener) stop() {
	l.cancel()
	<-l.done
}

func (l *listener) run(ctx context.Context, conn *pgx.Conn) {
	defer close(l.done)
	for {
		err := l.receive(ctx, conn)
		discard(conn)
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("notifications interrupted", "err", translate(ctx, err))
		if conn = l.reconnect(ctx); conn == nil {
			return
		}
		l.log.Info("notifications resumed")
		l.hub.publish([]Change{{}})
	}
}

func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.config.ConnectTimeout)
	defer cancel()
	conn, err := dial(ctx, l.config)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		discard(conn)
		return nil, err
	}
	return conn, nil
}

// reconnect returns nil when ctx ends.
func (l *listener) reconnect(ctx context.Context) *pgx.Conn {
	for wait(ctx, retryEvery) {
		if conn, err := l.connect(ctx); err == nil {
			return conn
		}
	}
	return nil
}

// receive passes notifications on until the connection or ctx ends.
func (l *listener) receive(ctx context.Context, conn *pgx.Conn) error {
	for {
		n, err := await(ctx, conn)
		if err != nil {
			return err
		}
		if n == nil {
			if err := probe(ctx, conn, "SELECT 1"); err != nil {
				return err
			}
			continue
		}
		if instance, change, ok := strings.Cut(n.Payload, ":"); ok && instance != l.instance {
			l.hub.publish([]Change{readChange(change)})
		}
	}
}

// readChange reads a notification without its instance.
func readChange(text string) Change {
	for _, e := range []Extent{OnlyTurns, OnlyEnds, OnlyProgress} {
		if id, ok := strings.CutSuffix(text, extentMarks[e]); ok {
			return Change{id, e}
		}
	}
	return Change{SessionID: text}
}

// await returns the next notification, or nil after a silence of probeEvery. A
// connection the server closed is noticed at once.
func await(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	silence, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	n, err := conn.WaitForNotification(silence)
	if err != nil && ctx.Err() == nil && silence.Err() != nil && !conn.IsClosed() {
		return nil, nil
	}
	return n, err
}

// probe asks a question whose answer must have a row.
func probe(ctx context.Context, conn *pgx.Conn, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	var one int
	return conn.QueryRow(ctx, query, args...).Scan(&one)
}

// discard closes a connection without waiting long for a server that is gone.
func discard(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// wait reports false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
