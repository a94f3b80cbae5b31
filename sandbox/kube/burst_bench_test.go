package kube_test

import (
	"flag"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
)

var burst = flag.Int("burst", 500, "sandboxes that BenchmarkBurst makes at once")

// BenchmarkBurst makes many sandboxes at once with a real sandboxd each and tells how long each takes until it runs, what the API
// server is asked for by the runtime, and the processor time of this process, in which runtime and kubelet stand-in share.
func BenchmarkBurst(b *testing.B) {
	f := &faulty{}
	o := options(b)
	o.Config = through(f)
	plane.StartKubelet(b, o.Namespace, kubetest.KubeletOptions{})
	rt, err := kube.New(o)
	if err != nil {
		b.Fatal(err)
	}
	defer rt.Close()
	specs := make([]sandbox.Spec, *burst)
	for i := range specs {
		specs[i] = newSpec()
	}
	for b.Loop() {
		runs := awaitRuns(b, rt, len(specs)+1)
		if err := rt.Create(b.Context(), newSpec()); err != nil { // brings the policies and the watch
			b.Fatal(err)
		}
		calls, cpu, begun := f.count.Load(), processor(b), time.Now()
		var mu sync.Mutex // guards claims
		claims, asked := make([]time.Duration, len(specs)), make([]time.Time, len(specs))
		each(len(specs), func(i int) {
			asked[i] = time.Now()
			if err := rt.Create(b.Context(), specs[i]); err != nil {
				b.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			claims[i] = time.Since(asked[i])
		})
		made := time.Since(begun)
		at := <-runs
		all := time.Since(begun)
		waits := make([]time.Duration, len(specs))
		for i, s := range specs {
			waits[i] = at[s.ID].Sub(asked[i])
		}
		slices.Sort(claims)
		slices.Sort(waits)
		n := float64(len(specs))
		b.ReportMetric(n/made.Seconds(), "made/s")
		b.ReportMetric(ms(claims[len(specs)*99/100]), "made-p99-ms")
		b.ReportMetric(all.Seconds(), "all-run-s")
		b.ReportMetric(ms(waits[len(specs)/2]), "runs-p50-ms")
		b.ReportMetric(ms(waits[len(specs)*99/100]), "runs-p99-ms")
		b.ReportMetric(float64(f.count.Load()-calls)/n, "calls/sandbox")
		b.ReportMetric(ms(processor(b)-cpu)/n, "cpu-ms/sandbox")
	}
	each(len(specs), func(i int) {
		if err := rt.Delete(b.Context(), specs[i].ID); err != nil {
			b.Error(err)
		}
	})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// awaitRuns gives when each of n sandboxes was first seen running, once all were.
func awaitRuns(b *testing.B, rt *kube.Runtime, n int) <-chan map[sandbox.ID]time.Time {
	b.Helper()
	changes, done := rt.Watch(b.Context()), make(chan map[sandbox.ID]time.Time, 1)
	go func() {
		at := map[sandbox.ID]time.Time{}
		for id := range changes {
			if _, known := at[id]; known {
				continue
			}
			if s, err := rt.Get(b.Context(), id); err == nil && s.State == sandbox.Running {
				at[id] = time.Now()
			}
			if len(at) == n {
				done <- at
				return
			}
		}
	}()
	return done
}

func processor(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
