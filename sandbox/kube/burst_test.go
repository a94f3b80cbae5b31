package kube_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
)

// callsOfASession bounds what the API server is asked for by a sandbox: settings are put and read, the volume claim and the pod are
// made, the pod is deleted. More come only where the watch is late on a busy machine.
const callsOfASession = 8

func TestABurstOfSandboxesCostsFewCallsEach(t *testing.T) {
	t.Parallel()
	const sessions = 100
	f := &faulty{}
	rt, _, _ := unattended(t, func(o *kube.Options) { o.Config = through(f) })
	create(t, rt) // brings the policies and the watch
	settings, ctx := rt.Settings(), t.Context()
	before, begun := f.count.Load(), time.Now()
	specs := make([]sandbox.Spec, sessions)
	each(sessions, func(i int) {
		specs[i] = newSpec()
		if err := settings.Put(ctx, specs[i].SessionID, map[string]string{"A": "1"}); err != nil {
			t.Error(err)
		}
		if err := rt.Create(ctx, specs[i]); err != nil {
			t.Error(err)
		}
		if s, err := rt.Get(ctx, specs[i].ID); err != nil || s.State != sandbox.Starting {
			t.Errorf("%+v, %v", s, err)
		}
		for range 20 { // while the watch brings it
			all, err := rt.List(ctx)
			if err != nil || !slices.ContainsFunc(all, func(s sandbox.Status) bool { return s.ID == specs[i].ID }) {
				t.Errorf("one that was made is not listed: %v", err)
				break
			}
		}
		if _, err := settings.Get(ctx, specs[i].SessionID); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d made in %v", sessions, time.Since(begun))
	if all, err := rt.List(ctx); err != nil || len(all) != sessions+1 {
		t.Errorf("%d are listed, %v", len(all), err)
	}
	each(sessions, func(i int) {
		if err := rt.Delete(ctx, specs[i].ID); err != nil {
			t.Error(err)
		}
	})
	t.Logf("made and deleted in %v", time.Since(begun))
	if all, err := rt.List(ctx); err != nil || len(all) != 1 {
		t.Errorf("%d are left, %v", len(all), err)
	}
	calls := float64(f.count.Load()-before) / sessions
	t.Logf("%.1f calls for each", calls)
	if calls > callsOfASession {
		t.Errorf("each costs %.1f calls", calls)
	}
}

// each calls fn for 0 to n-1, 16 at once, as the controller has workers.
func each(n int, fn func(int)) {
	work := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range work {
				fn(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}
