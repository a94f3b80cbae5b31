package agent_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestReadersGetEveryRecordFromWhereverTheyBegin(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	var readers sync.WaitGroup
	const turns = 30
	last := func(r sandboxd.Record) bool { return isEnd(r) && *r.TurnID == fmt.Sprint("t", turns-1) }
	for after := range int64(12) { // follow fails on a gap
		readers.Go(func() { b.follow(after*7, last) })
	}
	for i := range turns {
		b.do(fmt.Sprint("t", i), "say "+strings.Repeat("word ", 20))
	}
	readers.Wait()
	n := b.health().LastN
	for after := range n {
		if r := b.follow(after, func(sandboxd.Record) bool { return true }); r[0].N != after+1 {
			t.Fatalf("after %d came %d", after, r[0].N)
		}
	}
}

func TestAReaderAheadOfTheLogWaitsForItsRecord(t *testing.T) {
	t.Parallel()
	b := boot(t)
	got := make(chan int64, 1)
	go func() {
		defer close(got)
		got <- b.follow(3, func(sandboxd.Record) bool { return true })[0].N
	}()
	b.ready()
	if n := <-got; n != 4 {
		t.Errorf("record %d", n)
	}
}

func TestASlowReaderHoldsUpNobody(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	conn, err := net.Dial("unix", filepath.Join(b.c.Dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req, err := http.NewRequest("GET", "http://sandbox/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(sandbox.TokenHeader, b.token(sandbox.ID(b.c.SandboxID), b.key, time.Hour))
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 200_000)
	for i := range 20 { // 8 MB, far more than the socket holds
		b.do(fmt.Sprint("t", i), "say "+long)
	}
	if n := b.health().LastN; n < 80 {
		t.Errorf("%d records", n)
	}
}

func TestAHeartbeatIsAnEmptyLine(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	stream := agent.Heartbeats(t.Context(), b.c.Dir, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case got := <-stream:
		if got != "\n\n" {
			t.Errorf("got %q", got)
		}
	case <-ctx.Done():
		t.Fatal("nothing came")
	}
}

func TestATornLastLineIsCutOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all, err := agent.Record(dir, "t", discard(), func(emit func(e harness.Event)) {
		for range 100 {
			emit(harness.Event{Type: "harness.event", TurnID: "t", Data: struct{}{}})
		}
	})
	if err != nil || len(all) != 100 {
		t.Fatal(err, len(all))
	}
	path := filepath.Join(dir, "events.ndjson")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < 120; cut++ {
		if err := os.WriteFile(path, whole[:len(whole)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := agent.Reload(dir)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Count(string(whole[:len(whole)-cut]), "\n"); len(again) != want {
			t.Fatalf("%d bytes less: %d records, want %d", cut, len(again), want)
		}
		left, err := os.ReadFile(path)
		if err != nil || (len(left) > 0 && left[len(left)-1] != '\n') {
			t.Fatalf("the file ends in the middle of a line: %v", err)
		}
	}
}

func TestAFullDiskLosesNoEndOfATurnAndLeavesNoGap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		deltaErr, ended, err := agent.FillDisk(t.Context(), dir, discard())
		if err != nil || deltaErr == nil || ended {
			t.Errorf("delta: %v, ended %v, %v", deltaErr, ended, err)
		}
	})
	all, err := agent.Reload(dir)
	if err != nil || types(all) != "turn.completed" || all[0].N != 1 {
		t.Errorf("%s %v", types(all), err)
	}
}
