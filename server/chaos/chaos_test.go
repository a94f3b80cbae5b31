package chaos_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var (
	duration  = flag.Duration("for", 15*time.Second, "time during which things break, on each database")
	seed      = flag.Uint64("seed", 0, "seed of all chances; 0: a fixed one on SQLite, another each time on Postgres")
	databases = flag.String("databases", "sqlite,postgres", "databases to run on, one after the other")
	sessions  = flag.Int("sessions", 3, "sessions at a time, each with a sandbox of its own")
	clients   = flag.Int("clients", 10, "clients that send messages")
	only      = flag.String("faults", "", "beginnings of the names of the faults to cause, separated by commas; empty: all")
	binary    = flag.String("binary", "", "program to break; default: built from this module")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(storetest.Runner(m)) }

type options struct {
	duration          time.Duration
	round             time.Duration // between two quiet periods
	sessions, clients int
	faults            []string
}

func (o options) wants(fault string) bool {
	return len(o.faults) == 0 || slices.ContainsFunc(o.faults, func(f string) bool { return strings.HasPrefix(fault, f) })
}

func TestNothingIsLostOrDoubledWhateverBreaks(t *testing.T) {
	t.Parallel()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	program := *binary
	if program == "" {
		program = servertest.Build(t)
	}
	o := options{duration: *duration, round: 40 * time.Second, sessions: *sessions, clients: *clients}
	if *only != "" {
		o.faults = strings.Split(*only, ",")
	}
	for _, kind := range strings.Split(*databases, ",") {
		t.Run(kind, func(t *testing.T) {
			s := *seed
			switch {
			case s != 0:
			case kind == storetest.KindSQLite:
				s = 4
			default:
				s = rand.Uint64()
			}
			t.Logf("seed %d", s)
			newWorld(t, o, program, kind, s).run(ctx)
		})
	}
}

// run breaks things in rounds, each followed by a quiet period and a judgement.
func (w *world) run(ctx context.Context) {
	w.revive()
	for n := uint64(1); ; n++ {
		left := w.o.duration - time.Since(w.begun)
		if n > 1 && left <= 0 || ctx.Err() != nil {
			break
		}
		w.round(ctx, n, min(max(left, 5*time.Second), w.o.round))
		w.judge()
	}
	w.finish()
	w.report()
}

func (w *world) round(ctx context.Context, n uint64, d time.Duration) {
	busy, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	life, end := context.WithTimeout(context.WithoutCancel(ctx), d+startTimeout+30*time.Second)
	defer end()
	if w.agent == "" {
		w.makeAgent(life)
	}
	var all sync.WaitGroup
	all.Go(func() { w.steer(busy, life, rand.New(rand.NewPCG(w.seed, n<<16))) })
	for i := range w.o.clients {
		all.Go(func() { w.client(busy, life, rand.New(rand.NewPCG(w.seed, n<<16+uint64(i)+1))) })
	}
	w.cause(busy)
	<-busy.Done()
	w.gw.set("")
	if !w.srv.runs() {
		w.revive()
	}
	all.Wait()
}
