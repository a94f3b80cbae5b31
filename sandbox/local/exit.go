package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// exit is how a sandbox ended, as exit.json holds it. sandboxd writes the file at an orderly end, else the Runtime does.
type exit struct {
	Code   *int   `json:"code,omitempty"`
	Reason string `json:"reason"`
}

// cause says how the sandbox ended, if sandboxd does not say it.
func (b *box) cause(err error) exit {
	b.mu.Lock()
	p, ran := b.proc, b.state == sandbox.Running
	b.mu.Unlock()
	if err != nil && !errors.Is(err, errEnded) {
		return exit{Reason: err.Error()}
	}
	if p == nil {
		return exit{Reason: endReason(err)}
	}
	status, ok := p.reap()
	if !ok {
		return exit{Reason: endReason(err)}
	}
	if status.Signaled() {
		code := 128 + int(status.Signal())
		return exit{Code: &code, Reason: fmt.Sprintf("sandboxd was killed by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))}
	}
	code := status.ExitStatus()
	e := exit{Code: &code, Reason: "sandboxd ended with exit code " + strconv.Itoa(code)}
	if !ran { // nothing of a session can be in its log yet
		e.Reason = "sandboxd did not start: exit code " + strconv.Itoa(code) + lastWords(filepath.Join(b.dir, logFile))
	}
	return e
}

func endReason(err error) string {
	if errors.Is(err, errRebooted) {
		return "the machine was restarted"
	}
	return "sandboxd was killed"
}

// finish makes the sandbox Exited, for good: nothing of it runs any more and the reason is on disk.
func (b *box) finish(ctx context.Context, e exit) {
	if err := b.sweep(ctx); err != nil {
		b.r.log.Error("sandbox left processes", "sandbox_id", b.rec.ID, "err", err)
	}
	if ctx.Err() != nil {
		return
	}
	path := filepath.Join(b.dir, exitFile)
	var said exit
	switch err := readJSON(path, &said); {
	case err == nil && said.Reason != "":
		e = exit{Code: said.Code, Reason: clip(said.Reason)}
	default:
		if err := writeJSON(path, e); err != nil {
			b.r.log.Error("exit of sandbox is not stored", "sandbox_id", b.rec.ID, "err", err)
		}
	}
	b.set(func() { b.state, b.exit = sandbox.Exited, e })
	b.r.log.Info("sandbox exited", "sandbox_id", b.rec.ID, "session_id", b.rec.SessionID, "reason", e.Reason)
}

func (b *box) hasExit() bool {
	_, err := os.Lstat(filepath.Join(b.dir, exitFile))
	return err == nil
}
