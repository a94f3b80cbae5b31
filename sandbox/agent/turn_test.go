package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

func TestATurnIsRunOnceHoweverOftenItIsHandedOver(t *testing.T) {
	t.Parallel()
	b := boot(t)
	if status := b.turn("t1", "say too early"); status != 409 {
		t.Errorf("before it is ready: %d", status)
	}
	b.ready()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if status := b.turn("t1", "say a b"); status != 202 {
				t.Errorf("status %d", status)
			}
		})
	}
	all.Wait()
	end := b.end("t1")
	if end.Type != "turn.completed" || *result(t, end).Parts[0].Text != "a b" {
		t.Errorf("end %s %s", end.Type, end.Data)
	}
	if status := b.turn("t1", "say a b"); status != 202 {
		t.Errorf("after its end: %d", status)
	}
	b.do("t2", "say c")
	if heard := b.fake.heard(); strings.Join(heard, " ") != "t1 t2" {
		t.Errorf("the harness heard %v", heard)
	}
}

func TestTurnsRunOneAtATime(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	if status := b.turn("t1", "wait"); status != 202 {
		t.Fatal(status)
	}
	if status := b.turn("t2", "say a"); status != 409 {
		t.Errorf("second turn: %d", status)
	}
	b.abort("t1")
	b.end("t1")
	if end := b.do("t2", "say a"); end.Type != "turn.completed" {
		t.Errorf("after the first: %s", end.Type)
	}
}

func (b *box) abort(id string) {
	b.t.Helper()
	r, err := b.client.AbortTurnWithResponse(context.Background(), id)
	if err != nil || r.StatusCode() != 202 {
		b.t.Fatalf("abort: %v", err)
	}
}

func TestABadTurnIsRefused(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	last := b.health().LastN
	text := "x"
	for name, c := range map[string]sandboxd.Turn{
		"no id":      {Model: "m", Parts: []sandboxd.InputPart{{Type: "text", Text: &text}}},
		"id / in it": {ID: "a/b", Model: "m", Parts: []sandboxd.InputPart{{Type: "text", Text: &text}}},
		"no model":   {ID: "t", Parts: []sandboxd.InputPart{{Type: "text", Text: &text}}},
		"no parts":   {ID: "t", Model: "m"},
		"no text":    {ID: "t", Model: "m", Parts: []sandboxd.InputPart{{Type: "text"}}},
		"no image":   {ID: "t", Model: "m", Parts: []sandboxd.InputPart{{Type: "image"}}},
		"odd part":   {ID: "t", Model: "m", Parts: []sandboxd.InputPart{{Type: "video", Text: &text}}},
	} {
		r, err := b.client.StartTurnWithResponse(context.Background(), c)
		if err != nil || r.JSON400 == nil {
			t.Errorf("%s: %v %d", name, err, r.StatusCode())
		}
	}
	if n := b.health().LastN; n != last {
		t.Errorf("%d records more", n-last)
	}
}

func TestAbortEndsOnlyTheTurnItNames(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	if status := b.turn("t1", "wait"); status != 202 {
		t.Fatal(status)
	}
	b.abort("another")
	b.abort("t1")
	b.abort("t1")
	if end := b.end("t1"); end.Type != "turn.aborted" {
		t.Errorf("end %s", end.Type)
	}
	b.abort("t1")
	if end := b.do("t2", "say a"); end.Type != "turn.completed" {
		t.Errorf("the next turn: %s", end.Type)
	}
}

func TestAHarnessThatDoesNotObeyAnAbortLosesTheTurn(t *testing.T) {
	t.Parallel()
	b := boot(t, func(b *box) { b.c = b.c.WithAbortWithin(50 * time.Millisecond) })
	b.ready()
	if status := b.turn("t1", "stuck"); status != 202 {
		t.Fatal(status)
	}
	eventually(t, "the harness has the turn", func() bool { return slices.Contains(b.fake.heard(), "t1") })
	b.abort("t1")
	if end := b.end("t1"); end.Type != "turn.aborted" {
		t.Errorf("end %s", end.Type)
	}
	if end := b.do("t2", "say a"); end.Type != "turn.completed" {
		t.Errorf("the next turn: %s", end.Type)
	}
	if c := b.fake.config(2); c.Resume != "native-1" {
		t.Errorf("started again with %q", c.Resume)
	}
}

func TestAFailedTurnSaysWhyAndLeavesTheHarness(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	end := b.do("t1", "fail")
	if e := result(t, end).Error; end.Type != "turn.failed" || e.Name != "APIError" {
		t.Errorf("end %s %s", end.Type, end.Data)
	}
	b.do("t2", "say a")
}

func TestALostHarnessIsStartedAgainOnceBetweenTwoCompletedTurns(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	lost := func(id string) {
		t.Helper()
		end := b.do(id, "crash")
		if e := result(t, end).Error; end.Type != "turn.failed" || e.Name != "turn_interrupted" || !strings.Contains(e.Message, "code 7: boom") {
			t.Errorf("end %s %s", end.Type, end.Data)
		}
	}
	lost("t1")
	if end := b.do("t2", "say a"); end.Type != "turn.completed" {
		t.Errorf("after the first loss: %s %s", end.Type, end.Data)
	}
	b.fake.run(2).die() // between turns
	all := b.follow(0, func(r sandboxd.Record) bool { return r.N > 1 && r.Type == "harness.event" && b.health().LastN == r.N })
	if reason := field(t, all[len(all)-1], "message"); !strings.Contains(reason, "boom") {
		t.Errorf("message %q", reason)
	}
	if c := b.fake.config(3); c.Resume != "native-1" {
		t.Errorf("resumes %q", c.Resume)
	}
	lost("t3")
	all = b.until("harness.exited")
	if reason := field(t, all[len(all)-1], "reason"); !strings.Contains(reason, "code 7: boom") {
		t.Errorf("reason %q", reason)
	}
	if h := b.health(); h.State != "failed" {
		t.Errorf("state %s", h.State)
	}
	if status := b.turn("t4", "say a"); status != 409 {
		t.Errorf("turn afterwards: %d", status)
	}
	phases := 0
	for _, r := range all {
		if r.Type == "phase" {
			phases++
		}
	}
	if phases != 5 {
		t.Errorf("%d phases: a restart goes through none", phases)
	}
}

func TestAHarnessThatCannotBeStartedAgainEndsTheService(t *testing.T) {
	t.Parallel()
	b := boot(t, func(b *box) {
		b.fake.startErr = func(n int) error {
			if n == 2 {
				return errors.New("fake is gone")
			}
			return nil
		}
	})
	b.ready()
	b.fake.run(1).die()
	all := b.until("harness.exited")
	if reason := field(t, all[len(all)-1], "reason"); !strings.Contains(reason, "boom") || !strings.Contains(reason, "fake is gone") {
		t.Errorf("reason %q", reason)
	}
}

func TestATurnThatComesWhileTheHarnessStartsAgainWaitsForIt(t *testing.T) {
	t.Parallel()
	again := make(chan struct{})
	b := boot(t, func(b *box) {
		b.fake.startErr = func(n int) error {
			if n == 2 {
				<-again
			}
			return nil
		}
	})
	b.ready()
	b.do("t1", "crash")
	if status := b.turn("t2", "say a"); status != 202 {
		t.Errorf("status %d", status)
	}
	close(again)
	if end := b.end("t2"); end.Type != "turn.completed" {
		t.Errorf("end %s %s", end.Type, end.Data)
	}
}

func TestAnAbortReachesATurnThatHasNotBegun(t *testing.T) {
	t.Parallel()
	again := make(chan struct{})
	b := boot(t, func(b *box) {
		b.fake.startErr = func(n int) error {
			if n == 2 {
				<-again
			}
			return nil
		}
	})
	b.ready()
	b.do("t1", "crash")
	if status := b.turn("t2", "say a"); status != 202 {
		t.Errorf("status %d", status)
	}
	b.abort("t2")
	close(again)
	if end := b.end("t2"); end.Type != "turn.aborted" {
		t.Errorf("end %s", end.Type)
	}
	if heard := fmt.Sprint(b.fake.heard()); heard != "[t1]" {
		t.Errorf("the harness heard %s", heard)
	}
	b.do("t3", "say a")
}

func TestATurnThatWaitsForALostHarnessFails(t *testing.T) {
	t.Parallel()
	again := make(chan struct{})
	b := boot(t, func(b *box) {
		b.fake.startErr = func(n int) error {
			if n == 2 {
				<-again
				return errors.New("no")
			}
			return nil
		}
	})
	b.ready()
	b.do("t1", "crash")
	if status := b.turn("t2", "say a"); status != 202 {
		t.Errorf("status %d", status)
	}
	close(again)
	end := b.end("t2")
	if e := result(t, end).Error; end.Type != "turn.failed" || e.Name != "turn_interrupted" {
		t.Errorf("end %s %s", end.Type, end.Data)
	}
	b.until("harness.exited")
}
