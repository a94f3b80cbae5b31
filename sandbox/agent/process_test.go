package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// processHarness is a harness with a real process, for a sandboxd that is one itself. What a turn does stands in its text:
//
//	stream    deltas until it is killed
//	orphans   leaves processes behind in sessions of their own, one of which ends at once
//	exits N   runs N programs that exit with 3, and fails if one status is lost
type processHarness struct{}

type processRun struct {
	c    harness.Config
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

func (processHarness) Start(_ context.Context, c harness.Config) (harness.Running, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &processRun{c: c, done: make(chan struct{}), cmd: exec.Command(exe, "harness")}
	r.cmd.Env, r.cmd.Dir = c.Env, c.Dir
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.done)
	}()
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0) // of sandboxd, in which this runs
	return r, errors.Join(err,
		os.WriteFile(filepath.Join(c.StateDir, "dumpable"), []byte(strconv.Itoa(dumpable)), 0o600),
		os.WriteFile(filepath.Join(c.StateDir, "env"), []byte(strings.Join(c.Env, "\n")), 0o600))
}

// beHarness is the harness's program: it waits to be killed.
func beHarness() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = r.Read(make([]byte, 1))
	return err
}

func (r *processRun) SessionID() string           { return "native" }
func (r *processRun) Done() <-chan struct{}       { return r.done }
func (r *processRun) ExitReason() string          { return "harness: " + r.cmd.ProcessState.String() }
func (r *processRun) Abort(context.Context) error { return nil }

func (r *processRun) Close() {
	r.once.Do(func() { _ = unix.Kill(-r.cmd.Process.Pid, unix.SIGKILL) })
	<-r.done
}

func (r *processRun) Turn(ctx context.Context, t sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	verb, arg, _ := strings.Cut(*t.Parts[0].Text, " ")
	switch verb {
	case "stream":
		for {
			r.c.Emit(harness.Event{Type: "harness.event", TurnID: t.ID, Data: map[string]string{"kind": strings.Repeat("x", 500)}})
			select {
			case <-ctx.Done():
				return "", sandboxd.TurnResult{}, ctx.Err()
			case <-r.done:
				return "", sandboxd.TurnResult{}, errors.New(r.ExitReason())
			default:
			}
		}
	case "orphans":
		script := `env -i sleep 1000 & setsid sleep 1000 & setsid env -i sleep 1000 & setsid sh -c 'exit 0' & exit 0`
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Env = r.c.Env
		if err := cmd.Run(); err != nil {
			return "", sandboxd.TurnResult{}, err
		}
	case "exits":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return "", sandboxd.TurnResult{}, err
		}
		for range n {
			var exit *exec.ExitError
			// The inner one is an orphan, and dies at about the same time.
			if err := exec.Command("/bin/sh", "-c", "(sh -c 'exit 0' &) ; exit 3").Run(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
				return "", sandboxd.TurnResult{}, fmt.Errorf("lost an exit status: %w", err)
			}
		}
	}
	return harness.Completed, sandboxd.TurnResult{}, nil
}

// daemonProcess is a sandboxd in a process of its own.
type daemonProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	log *bytes.Buffer
}

// spawn starts sandboxd as a process, with nothing in its environment but what is given.
func (b *box) spawn(env ...string) *daemonProcess {
	b.t.Helper()
	config, err := json.Marshal(b.c)
	if err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(b.c.Dir, "config.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		b.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	p := &daemonProcess{t: b.t, cmd: exec.Command(exe, "sandboxd", "-config", path), log: &bytes.Buffer{}}
	p.cmd.Dir, p.cmd.Stderr, p.cmd.Stdout = b.c.Dir, p.log, p.log
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LAP_SANDBOX_ID=" + b.c.SandboxID}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.cmd.WaitDelay = time.Second // a killed one leaves a harness that holds its output
	if err := p.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		p.kill()
		killAll(b.t, below(b.t, b.c.SandboxID))
		if b.t.Failed() {
			b.t.Log(p.log.String())
		}
	})
	b.awaitSocket()
	return p
}

func (p *daemonProcess) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

func (p *daemonProcess) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("sandboxd ended with %v", err)
	}
}

func (b *box) harnessEnv() []string {
	b.t.Helper()
	env, err := os.ReadFile(filepath.Join(b.c.StateDir, "harness/env"))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Split(string(env), "\n")
}

// below returns the live processes that carry the sandbox's mark.
func below(t *testing.T, id string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && bytes.Contains(env, []byte("LAP_SANDBOX_ID="+id+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func killAll(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Error(err)
		}
	}
}

// children returns the processes whose parent is pid, by state.
func children(t *testing.T, pid int) (alive, zombies []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		switch {
		case f[1] != strconv.Itoa(pid):
		case f[0] == "Z":
			zombies = append(zombies, child)
		default:
			alive = append(alive, child)
		}
	}
	return alive, zombies
}

func TestAnEndedSandboxdLeavesNoProcess(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	p := b.spawn()
	b.ready()
	b.do("t1", "orphans")
	var orphans []int
	eventually(t, "three orphans and the harness are its children", func() bool {
		orphans, _ = children(t, p.cmd.Process.Pid)
		return len(orphans) == 4
	})
	p.terminate()
	for _, pid := range orphans {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(stat, []byte(") Z ")) {
			t.Errorf("left behind: %s", stat)
		}
	}
	if e := b.exit(); e.Code != 0 || e.Reason != "it was asked to stop" {
		t.Errorf("exit %+v", e)
	}
}

func TestWhatCarriesTheSandboxsMarkEndsWithIt(t *testing.T) {
	t.Parallel()
	b := boot(t)
	marked, other := exec.Command("sleep", "1000"), exec.Command("sleep", "1000")
	marked.Env = []string{"PATH=" + os.Getenv("PATH"), "LAP_SANDBOX_ID=" + b.c.SandboxID}
	for _, cmd := range []*exec.Cmd{marked, other} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Errorf("it ended another process, too: %v", err)
	}
	_ = other.Wait()
	alive, _ := children(t, os.Getpid())
	if slices.Contains(alive, marked.Process.Pid) {
		t.Error("a process of the sandbox lives on")
		_ = marked.Process.Kill()
	}
	_ = marked.Wait()
}

func TestOrphansAreReapedAndNoExitStatusIsLost(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	p := b.spawn()
	b.ready()
	if end := b.do("t1", "exits 100"); end.Type != "turn.completed" {
		t.Errorf("end %s", end.Data)
	}
	b.do("t2", "orphans")
	eventually(t, "no zombie is left", func() bool {
		_, zombies := children(t, p.cmd.Process.Pid)
		return len(zombies) == 0
	})
	p.terminate()
}

func TestWhoSandboxdIsStandsInItsDirectory(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	p := b.spawn()
	got, err := os.ReadFile(filepath.Join(b.c.Dir, "pid.json"))
	if err != nil {
		t.Fatal(err)
	}
	var who struct {
		Pid       int    `json:"pid"`
		StartTime uint64 `json:"start_time"`
		BootID    string `json:"boot_id"`
	}
	if err := json.Unmarshal(got, &who); err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[19]
	if who.Pid != p.cmd.Process.Pid || strconv.FormatUint(who.StartTime, 10) != start || len(who.BootID) != 36 {
		t.Errorf("pid.json %s, start %s", got, start)
	}
	for name, mode := range map[string]os.FileMode{"sock": os.ModeSocket | 0o600, "pid.json": 0o600, "state/events.ndjson": 0o600, "state": os.ModeDir | 0o700} {
		if st, err := os.Lstat(filepath.Join(b.c.Dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v %v", name, err, st)
		}
	}
	b.ready()
	if got, err := os.ReadFile(filepath.Join(b.c.StateDir, "harness/dumpable")); err != nil || string(got) != "0" {
		t.Errorf("others of its user may read its memory: dumpable is %s, %v", got, err)
	}
	p.terminate()
}

func TestTheLogOfAKilledSandboxdIsWhole(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	p := b.spawn()
	b.ready()
	b.do("t1", "orphans")
	if status := b.turn("t2", "stream"); status != 202 {
		t.Fatal(status)
	}
	eventually(t, "the turn is at work", func() bool { return b.health().LastN > 200 })
	p.kill()
	if _, err := os.Stat(filepath.Join(b.c.Dir, "exit.json")); err == nil {
		t.Error("a killed sandboxd wrote why it ended")
	}
	killAll(t, below(t, b.c.SandboxID))
	log, err := os.OpenFile(filepath.Join(b.c.StateDir, "events.ndjson"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.WriteString(`{"n":99,"ty`); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	b.http.CloseIdleConnections()
	p = b.spawn()
	all := b.until("failed")
	if len(all) < 200 {
		t.Errorf("%d records are left", len(all))
	}
	last := all[len(all)-2]
	if last.Type != "turn.failed" || *last.TurnID != "t2" || result(t, last).Error.Name != "turn_interrupted" {
		t.Errorf("the turn's end is %s %s", last.Type, last.Data)
	}
	if h := b.health(); h.State != "failed" || h.Attempt != 1 || *h.SessionID != "session-1" {
		t.Errorf("health %+v", h)
	}
	b.bind() // the same again changes nothing
	if status := b.turn("t2", "stream"); status != 202 {
		t.Errorf("a turn that was taken: %d", status)
	}
	if status := b.turn("t3", "stream"); status != 409 {
		t.Errorf("a new turn: %d", status)
	}
	p.terminate()
}

func TestTheHarnessIsStartedAgainWhenItIsKilled(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	p := b.spawn()
	b.ready()
	if status := b.turn("t1", "stream"); status != 202 {
		t.Fatal(status)
	}
	alive, _ := children(t, p.cmd.Process.Pid)
	if len(alive) != 1 {
		t.Fatalf("children %v", alive)
	}
	killAll(t, alive)
	end := b.end("t1")
	if e := result(t, end).Error; end.Type != "turn.failed" || e.Message != "harness: signal: killed" {
		t.Errorf("end %s %s", end.Type, end.Data)
	}
	if end := b.do("t2", "orphans"); end.Type != "turn.completed" {
		t.Errorf("the next turn: %s %s", end.Type, end.Data)
	}
	p.terminate()
}

func TestABadConfigurationEndsSandboxdWithItsReason(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.c.CallerKey, b.c.Root = nil, "relative"
	err := agent.Run(context.Background(), b.c, nil, discard())
	if err == nil || !strings.Contains(err.Error(), "caller_key") || !strings.Contains(err.Error(), "root") {
		t.Errorf("error %v", err)
	}
	if e := b.exit(); e.Code != 1 || !strings.Contains(e.Reason, "caller_key") {
		t.Errorf("exit %+v", e)
	}
}
