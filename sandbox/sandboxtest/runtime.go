package sandboxtest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Conformance runs the whole suite. Each call of open returns a Subject without sandboxes, which cleans up after itself.
func Conformance(t *testing.T, open func(t *testing.T) Subject) {
	t.Helper()
	cases := []struct {
		name string
		run  func(*bench)
	}{
		{"a sandbox comes to run and answers for itself", comesToRun},
		{"creating the same sandbox again changes nothing", createTwice},
		{"another specification under the same id is refused", createOther},
		{"an unusable specification starts nothing", createBad},
		{"delete ends everything the sandbox started", deleteSweeps},
		{"delete is idempotent and may be called at the same time", deleteTwice},
		{"delete at any moment of the start leaves nothing", deleteWhileStarting},
		{"the workspace survives its sandbox until it is deleted, if the runtime says so", workspaceStays},
		{"a workspace in use is not deleted", workspaceInUse},
		{"what does not exist is not found", unknown},
		{"list returns what exists", list},
		{"watch tells what changes, to everyone, until its context ends", watch},
		{"a killed sandbox is exited at once, with a reason, for good", killed},
		{"a new runtime takes over the sandboxes of the former", takeOver},
		{"a sandbox that ended while no runtime ran is exited", endedMeanwhile},
		{"logs hold what sandboxd wrote", logs},
		{"settings are kept, replaced and removed", settings},
		{"settings of an ill-formed session are refused", settingsBad},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(newBench(t, open))
		})
	}
}

func comesToRun(b *bench) {
	spec := b.spec()
	before := time.Now().Add(-time.Second)
	b.create(spec)
	s, err := b.Runtime().Get(b.t.Context(), spec.ID)
	if err != nil || s.State == sandbox.Exited {
		b.t.Fatalf("right after Create: %+v, %v", s, err)
	}
	s = b.reaches(spec.ID, sandbox.Running)
	if s.ID != spec.ID || s.SessionID != spec.SessionID || s.CreatedAt.Before(before) || s.CreatedAt.After(time.Now().Add(time.Second)) {
		b.t.Errorf("status: %+v", s)
	}
	if s.Reason != "" || s.ExitCode != nil {
		b.t.Errorf("a running sandbox has a reason: %+v", s)
	}
	b.isHealthy(spec.ID)
	if _, err := b.health(spec.ID, sandbox.ID(NewID())); err == nil {
		b.t.Error("a token for another sandbox was accepted")
	}
}

func createTwice(b *bench) {
	spec := b.running()
	n := b.Processes(b.t, spec.ID)
	was, err := b.Runtime().Get(b.t.Context(), spec.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.Runtime().Create(b.t.Context(), spec); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
	if is, err := b.Runtime().Get(b.t.Context(), spec.ID); err != nil || is != was {
		b.t.Errorf("was %+v, is %+v, %v", was, is, err)
	}
	if is := b.Processes(b.t, spec.ID); is != n {
		b.t.Errorf("%d processes became %d", n, is)
	}
}

func createOther(b *bench) {
	spec := b.running()
	other := spec
	other.SessionID = NewID()
	if err := b.Runtime().Create(b.t.Context(), other); err == nil {
		b.t.Error("the same id was accepted for another session")
	}
	if s := b.list()[spec.ID]; s.SessionID != spec.SessionID {
		b.t.Errorf("the sandbox changed: %+v", s)
	}
}

func createBad(b *bench) {
	for name, spoil := range map[string]func(*sandbox.Spec){
		"no id":           func(s *sandbox.Spec) { s.ID = "" },
		"an id as a path": func(s *sandbox.Spec) { s.ID = "../../escape" },
		"no session":      func(s *sandbox.Spec) { s.SessionID = "" },
		"session a path":  func(s *sandbox.Spec) { s.SessionID = "../escape" },
		"no key":          func(s *sandbox.Spec) { s.CallerKey = nil },
		"unknown harness": func(s *sandbox.Spec) { s.Harness = "no-such-harness" },
	} {
		spec := b.spec()
		spoil(&spec)
		if err := b.Runtime().Create(b.t.Context(), spec); err == nil {
			b.t.Errorf("%s: accepted", name)
		}
	}
	if all := b.list(); len(all) != 0 {
		b.t.Errorf("something was made: %+v", all)
	}
}

func deleteSweeps(b *bench) {
	spec := b.running()
	n := b.Processes(b.t, spec.ID)
	b.Spawn(b.t, spec.ID)
	Eventually(b.t, "the process can be seen: it has no environment in the middle of execve", func() error {
		if b.Processes(b.t, spec.ID) <= n {
			return errors.New("the sandbox started nothing")
		}
		return nil
	})
	b.delete(spec.ID)
	b.isGone(spec.ID)
	if conn, err := b.Runtime().Dial(b.t.Context(), spec.ID); err == nil {
		b.t.Error("a deleted sandbox can be dialled")
		_ = conn.Close()
	}
}

func deleteTwice(b *bench) {
	spec := b.running()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.Runtime().Delete(b.t.Context(), spec.ID); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
	b.isGone(spec.ID)
	b.delete(spec.ID)
}

func deleteWhileStarting(b *bench) {
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	changes := b.Runtime().Watch(ctx)
	for after := range 4 { // changes that are let pass first
		spec := b.spec()
		b.create(spec)
		for range after {
			if s, err := b.Runtime().Get(b.t.Context(), spec.ID); err != nil || s.State == sandbox.Running {
				break
			}
			nextOf(b, changes, spec.ID)
		}
		b.delete(spec.ID)
		b.isGone(spec.ID)
	}
}

func workspaceStays(b *bench) {
	first := b.running()
	b.WriteFile(b.t, first.SessionID, "note", "kept")
	b.delete(first.ID)
	second := first
	second.ID = sandbox.ID(NewID())
	b.create(second)
	b.reaches(second.ID, sandbox.Running)
	text, err := b.ReadFile(first.SessionID, "note")
	if kept := b.Runtime().KeepsWorkspaces(); kept && (err != nil || text != "kept") || !kept && !errors.Is(err, fs.ErrNotExist) {
		b.t.Errorf("workspaces are kept: %v; the second sandbox has %q, %v", kept, text, err)
	}
	b.delete(second.ID)
	for range 2 {
		if err := b.Runtime().DeleteWorkspace(b.t.Context(), first.SessionID); err != nil {
			b.t.Fatal(err)
		}
	}
	if text, err := b.ReadFile(first.SessionID, "note"); !errors.Is(err, fs.ErrNotExist) {
		b.t.Errorf("after DeleteWorkspace: %q, %v", text, err)
	}
}

func workspaceInUse(b *bench) {
	spec := b.running()
	b.WriteFile(b.t, spec.SessionID, "note", "kept")
	if err := b.Runtime().DeleteWorkspace(b.t.Context(), spec.SessionID); err == nil {
		b.t.Error("the workspace of a running sandbox was deleted")
	}
	if text, err := b.ReadFile(spec.SessionID, "note"); err != nil || text != "kept" {
		b.t.Errorf("it has %q, %v", text, err)
	}
}

func unknown(b *bench) {
	for _, id := range []sandbox.ID{sandbox.ID(NewID()), "", "../x"} {
		if _, err := b.Runtime().Get(b.t.Context(), id); !errors.Is(err, sandbox.ErrNotFound) {
			b.t.Errorf("Get %q: %v", id, err)
		}
		if _, err := b.Runtime().Dial(b.t.Context(), id); !errors.Is(err, sandbox.ErrNotFound) {
			b.t.Errorf("Dial %q: %v", id, err)
		}
		if _, err := b.Runtime().Logs(b.t.Context(), id, sandbox.LogOptions{}); !errors.Is(err, sandbox.ErrNotFound) {
			b.t.Errorf("Logs %q: %v", id, err)
		}
		b.delete(id)
	}
	for _, id := range []string{NewID(), "", "..", "../x"} {
		if err := b.Runtime().DeleteWorkspace(b.t.Context(), id); err != nil {
			b.t.Errorf("DeleteWorkspace %q: %v", id, err)
		}
	}
}

func list(b *bench) {
	if all := b.list(); len(all) != 0 {
		b.t.Fatalf("there is something at the start: %+v", all)
	}
	first, second := b.running(), b.running()
	b.Kill(b.t, second.ID)
	b.reaches(second.ID, sandbox.Exited)
	all := b.list()
	if len(all) != 2 || all[first.ID].State != sandbox.Running || all[second.ID].State != sandbox.Exited ||
		all[first.ID].SessionID != first.SessionID {
		b.t.Errorf("got %+v", all)
	}
	b.delete(first.ID)
	if all := b.list(); len(all) != 1 || all[second.ID].ID != second.ID {
		b.t.Errorf("after the delete: %+v", all)
	}
}

func watch(b *bench) {
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	one, two := b.Runtime().Watch(ctx), b.Runtime().Watch(ctx)
	b.Runtime().Watch(ctx) // nobody reads it, and nobody is held up
	spec := b.spec()
	b.create(spec)
	for _, ch := range []<-chan sandbox.ID{one, two} {
		b.seesOf(ch, spec.ID, sandbox.Running)
	}
	b.Kill(b.t, spec.ID)
	for _, ch := range []<-chan sandbox.ID{one, two} {
		b.seesOf(ch, spec.ID, sandbox.Exited)
	}
	b.delete(spec.ID)
	nextOf(b, one, spec.ID)
	cancel()
	for _, ch := range []<-chan sandbox.ID{one, two} {
		closesInTime(b, ch)
	}
}

// seesOf reads changes until, right after one, the sandbox has the state.
func (b *bench) seesOf(ch <-chan sandbox.ID, id sandbox.ID, want sandbox.State) {
	b.t.Helper()
	for {
		nextOf(b, ch, id)
		s, err := b.Runtime().Get(b.t.Context(), id)
		if err != nil {
			b.t.Fatal(err)
		}
		if s.State == want {
			return
		}
	}
}

func nextOf(b *bench, ch <-chan sandbox.ID, id sandbox.ID) {
	b.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got, ok := <-ch:
			if !ok {
				b.t.Fatal("the watch has ended")
			}
			if got == id {
				return
			}
		case <-deadline:
			b.t.Fatal("the watch does not tell of a change")
		}
	}
}

func closesInTime(b *bench, ch <-chan sandbox.ID) {
	b.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			b.t.Fatal("the watch does not end")
		}
	}
}

func killed(b *bench) {
	spec := b.running()
	b.Spawn(b.t, spec.ID)
	before := time.Now()
	b.Kill(b.t, spec.ID)
	s := b.reaches(spec.ID, sandbox.Exited)
	if took := time.Since(before); took > 2*time.Second {
		b.t.Errorf("it took %v", took)
	}
	if !strings.Contains(s.Reason, "killed") {
		b.t.Errorf("the reason is %q", s.Reason)
	}
	if n := b.Processes(b.t, spec.ID); n != 0 {
		b.t.Errorf("%d processes of it run", n)
	}
	if conn, err := b.Runtime().Dial(b.t.Context(), spec.ID); err == nil {
		b.t.Error("it can be dialled")
		_ = conn.Close()
	}
	b.create(spec)
	b.Reopen(b.t)
	if again := b.list()[spec.ID]; again.State != sandbox.Exited || again.Reason != s.Reason || !again.CreatedAt.Equal(s.CreatedAt) {
		b.t.Errorf("was %+v, is %+v", s, again)
	}
	b.delete(spec.ID)
	b.isGone(spec.ID)
}

func takeOver(b *bench) {
	kept, deleted, doomed := b.running(), b.running(), b.running()
	was := b.list()
	n := b.Processes(b.t, kept.ID)
	b.Reopen(b.t)
	for id, s := range b.list() {
		if s.State != sandbox.Running || s.SessionID != was[id].SessionID || !s.CreatedAt.Equal(was[id].CreatedAt) {
			b.t.Errorf("was %+v, is %+v", was[id], s)
		}
	}
	b.isHealthy(kept.ID)
	b.create(kept)
	if is := b.Processes(b.t, kept.ID); is != n {
		b.t.Errorf("%d processes became %d", n, is)
	}
	b.Spawn(b.t, deleted.ID)
	b.delete(deleted.ID)
	b.isGone(deleted.ID)
	b.Kill(b.t, doomed.ID)
	if s := b.reaches(doomed.ID, sandbox.Exited); s.Reason == "" {
		b.t.Error("no reason")
	}
}

func endedMeanwhile(b *bench) {
	spec := b.running()
	b.Spawn(b.t, spec.ID)
	b.Close()
	b.Kill(b.t, spec.ID)
	b.Reopen(b.t)
	if s := b.reaches(spec.ID, sandbox.Exited); s.Reason == "" {
		b.t.Error("no reason")
	}
	Eventually(b.t, "its processes are gone", func() error {
		if b.Processes(b.t, spec.ID) != 0 {
			return errors.New("some run")
		}
		return nil
	})
}

func logs(b *bench) {
	spec := b.running()
	all := b.readLogs(spec.ID, sandbox.LogOptions{})
	if strings.TrimSpace(all) == "" {
		b.t.Fatal("the log is empty")
	}
	lines := strings.Split(strings.TrimSuffix(all, "\n"), "\n")
	if tail := b.readLogs(spec.ID, sandbox.LogOptions{Tail: 1}); strings.TrimSuffix(tail, "\n") != lines[len(lines)-1] {
		b.t.Errorf("the last line of %q is not %q", all, tail)
	}
	if tail := b.readLogs(spec.ID, sandbox.LogOptions{Tail: 1000}); tail != all {
		b.t.Errorf("the last 1000 lines of %q are %q", all, tail)
	}
	follow, err := b.Runtime().Logs(b.t.Context(), spec.ID, sandbox.LogOptions{Follow: true})
	if err != nil {
		b.t.Fatal(err)
	}
	defer follow.Close()
	done := make(chan error, 1)
	go func() {
		text, err := io.ReadAll(follow)
		if err == nil && !strings.HasPrefix(string(text), all) {
			err = errors.New("it does not begin with what was there: " + string(text))
		}
		done <- err
	}()
	b.delete(spec.ID)
	select {
	case err := <-done:
		if err != nil {
			b.t.Errorf("follow: %v", err)
		}
	case <-time.After(patience):
		b.t.Error("following does not end with the sandbox")
	}
}

func (b *bench) readLogs(id sandbox.ID, o sandbox.LogOptions) string {
	b.t.Helper()
	r, err := b.Runtime().Logs(b.t.Context(), id, o)
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}
