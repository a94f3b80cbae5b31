package chaos_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fault breaks something and returns when it is whole again.
type fault struct {
	name string
	can  func(w *world) bool // nil: always
	run  func(ctx context.Context, w *world)
}

func onPostgres(w *world) bool { return w.pg != nil }

var faults = []fault{
	{"server-kill", nil, func(ctx context.Context, w *world) {
		w.srv.kill(syscall.SIGKILL)
		pause(ctx, w.upTo(1500))
		w.revive()
	}},
	{"server-kill-twice", nil, func(ctx context.Context, w *world) {
		w.srv.kill(syscall.SIGKILL)
		w.srv.launch()
		pause(ctx, w.upTo(600)) // it dies while it starts
		w.srv.kill(syscall.SIGKILL)
		w.revive()
	}},
	{"server-stop", nil, func(ctx context.Context, w *world) {
		w.srv.signal(syscall.SIGSTOP)
		pause(ctx, w.upTo(6000))
		w.srv.signal(syscall.SIGCONT)
	}},
	{"server-restart", nil, func(_ context.Context, w *world) {
		if !w.srv.kill(syscall.SIGTERM) {
			w.violated("", violation{"crash", "the server does not end after SIGTERM"})
		}
		w.revive()
	}},
	{"sandboxd-kill", nil, func(_ context.Context, w *world) { w.hit("sandboxd", syscall.SIGKILL) }},
	{"sandboxd-stop", nil, func(ctx context.Context, w *world) { w.freeze(ctx, "sandboxd") }},
	{"harness-kill", nil, func(_ context.Context, w *world) { w.hit("harness", syscall.SIGKILL) }},
	{"harness-stop", nil, func(ctx context.Context, w *world) { w.freeze(ctx, "harness") }},
	{"postgres-restart", onPostgres, func(_ context.Context, w *world) { w.pg.Stop(); w.pg.Start() }},
	{"postgres-kill", onPostgres, func(ctx context.Context, w *world) { w.pg.Kill(); pause(ctx, w.upTo(2000)); w.pg.Start() }},
	{"postgres-stop", onPostgres, func(ctx context.Context, w *world) { w.pg.Pause(); pause(ctx, w.upTo(8000)); w.pg.Resume() }},
	{"postgres-hang", onPostgres, func(ctx context.Context, w *world) {
		w.proxy.hold(true)
		pause(ctx, w.upTo(8000))
		w.proxy.hold(false)
	}},
	{"postgres-cut", onPostgres, func(ctx context.Context, w *world) {
		for range 1 + w.chance(5) {
			w.proxy.cut()
			pause(ctx, w.upTo(300))
		}
	}},
	{"disk-full", func(w *world) bool { return w.tmpfs }, func(ctx context.Context, w *world) { w.fillDisk(ctx) }},
	{"clients-vanish", nil, func(_ context.Context, w *world) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, cancel := range w.streams {
			cancel()
		}
	}},
	gatewayFault("401"), gatewayFault("429"), gatewayFault("500"), gatewayFault("slow"), gatewayFault("cut"),
}

func gatewayFault(mood string) fault {
	return fault{"gateway-" + mood, nil, func(ctx context.Context, w *world) {
		w.gw.set(mood)
		pause(ctx, w.upTo(4000))
		w.gw.set("")
	}}
}

func (w *world) upTo(ms int) time.Duration {
	return time.Duration(w.chance(ms)) * time.Millisecond
}

// chance draws from the seed: less than n.
func (w *world) chance(n int) int {
	w.randomMu.Lock()
	defer w.randomMu.Unlock()
	return w.random.IntN(n)
}

func (w *world) revive() {
	if !w.srv.start(time.Minute) {
		w.violated("", violation{"crash", "the server does not become ready\n" + tail(w.srv.log.Name(), 20)})
	}
}

// cause breaks things, mostly one at a time, until ctx ends. All of them are whole when it returns.
func (w *world) cause(ctx context.Context) {
	possible := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
		return f.can != nil && !f.can(w) || !w.o.wants(f.name)
	})
	for pause(ctx, w.upTo(1500)) && len(possible) > 0 {
		first, second := possible[w.chance(len(possible))], possible[w.chance(len(possible))]
		var other sync.WaitGroup
		if w.chance(4) == 0 && kindOf(first) != kindOf(second) && kindOf(second) != "postgres" {
			other.Go(func() { pause(ctx, 200*time.Millisecond); w.inflict(ctx, second) })
		}
		w.inflict(ctx, first)
		other.Wait()
		if !w.srv.runs() {
			w.revive()
		}
	}
}

func kindOf(f fault) string { kind, _, _ := strings.Cut(f.name, "-"); return kind }

func (w *world) inflict(ctx context.Context, f fault) {
	w.note("FAULT %s begins", f.name)
	begun := time.Now()
	f.run(ctx, w)
	w.count("fault " + f.name)
	w.note("FAULT %s ended after %s", f.name, time.Since(begun).Round(time.Millisecond))
}

// target is a process of a sandbox.
type target struct {
	pid     int
	session string
}

// targets finds the sandboxds or harnesses of this server.
func (w *world) targets(what string) (found []target) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(p))
		text, _ := os.ReadFile(p + "/cmdline")
		cmdline := strings.ReplaceAll(string(text), "\x00", " ")
		switch {
		case what == "sandboxd" && strings.Contains(cmdline, " sandboxd -config "+w.data):
			var spec struct {
				SessionID string `json:"session_id"`
			}
			_, path, _ := strings.Cut(strings.TrimSpace(cmdline), " -config ")
			text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "spec.json"))
			if err == nil && json.Unmarshal(text, &spec) == nil {
				found = append(found, target{pid, spec.SessionID})
			}
		case what == "harness" && strings.Contains(cmdline, " serve "):
			cwd, _ := os.Readlink(p + "/cwd")
			if path, ok := strings.CutPrefix(cwd, filepath.Join(w.data, "sessions")+"/"); ok {
				id, _, _ := strings.Cut(path, "/")
				found = append(found, target{pid, id})
			}
		}
	}
	return found
}

// hit signals one process of one sandbox.
func (w *world) hit(what string, sig syscall.Signal) (target, bool) {
	all := w.targets(what)
	if len(all) == 0 {
		return target{}, false
	}
	t := all[w.chance(len(all))]
	w.note("%s of session %s, pid %d, gets %s", what, t.session, t.pid, unix.SignalName(sig))
	if sig == syscall.SIGKILL {
		w.did(what, t.session, time.Now().Add(-time.Second))
	}
	_ = unix.Kill(t.pid, sig) // it may have ended
	return t, true
}

func (w *world) freeze(ctx context.Context, what string) {
	if t, ok := w.hit(what, syscall.SIGSTOP); ok {
		pause(ctx, w.upTo(8000))
		_ = unix.Kill(t.pid, syscall.SIGCONT) // it may have been killed
	}
}

// fillDisk leaves no room in the data directory for a while.
func (w *world) fillDisk(ctx context.Context) {
	defer w.doing("disk", "")()
	path := filepath.Join(w.data, "chaos-fill")
	f, err := os.Create(path)
	if err != nil {
		return
	}
	chunk := make([]byte, 1<<20)
	for end := time.Now().Add(w.upTo(6000)); time.Now().Before(end) && ctx.Err() == nil; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:max(1, len(chunk)/2)]
			pause(ctx, 5*time.Millisecond)
		}
	}
	_ = f.Close()
	if err := os.Remove(path); err != nil {
		w.t.Error(err)
	}
}
