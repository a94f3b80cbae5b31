package bench_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var harnessIDs = []string{"opencode", "claude-agent-sdk", "claude-code", "codex"}

// BenchmarkHarnesses has sessions of all harnesses at once on the real server, and says what they take.
func BenchmarkHarnesses(b *testing.B) {
	program := build(b)
	for _, kind := range strings.Split(*databases, ",") {
		mix{*mixed}.measure(b, program, kind, os.Stdout)
	}
}

func TestTheHarnessesAreMeasured(t *testing.T) {
	t.Parallel()
	mix{len(harnessIDs)}.measure(t, build(t), storetest.KindSQLite, io.Discard)
}

// mix is how many sessions there are, of all harnesses in turn.
type mix struct{ sessions int }

func (m mix) measure(t testing.TB, program, kind string, out io.Writer) {
	t.Helper()
	s := newServer(t, program, kind)
	gateway := demo.New("sk-bench")
	hs := httptest.NewServer(gateway)
	defer hs.Close()
	s.env = []string{"LITELLM_API_BASE=" + hs.URL, "LITELLM_API_KEY=sk-bench", "HARNESS_DIR=" + servertest.HarnessDir(t)}
	s.start()
	defer s.stop()
	api, err := client.NewClientWithResponses("http://"+s.addr, client.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+masterKey)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ready, answered := make([]time.Duration, m.sessions), make([]time.Duration, m.sessions)
	for i := range m.sessions {
		all.Go(func() {
			id := harnessIDs[i%len(harnessIDs)]
			ready[i], answered[i] = m.one(t, api, gateway, id, fmt.Sprintf("hello from %d of %s", i, id))
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	server, _ := s.memory()
	fmt.Fprintf(out, "%s: %d sessions of %s at once; server %d MB\n", kind, m.sessions, strings.Join(harnessIDs, ", "), server)
	for i, id := range harnessIDs {
		var r, a []time.Duration
		for j := i; j < m.sessions; j += len(harnessIDs) {
			r, a = append(r, ready[j]), append(a, answered[j])
		}
		fmt.Fprintf(out, "%s: %-16s ready p50 %v, worst %v; answer seen p50 %v, worst %v\n", kind, id, middle(r), slices.Max(r), middle(a), slices.Max(a))
	}
	for part, mb := range memoryByPart(s.dir) {
		fmt.Fprintf(out, "%s: %-16s %v MB each\n", kind, part, mb)
	}
	s.stop()
	if left := memoryByPart(s.dir); len(left) > 0 {
		t.Errorf("still runs: %v", left)
	}
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(time.Millisecond)
}

// one opens a session and returns when it was ready and when its first message was answered.
func (m mix) one(t testing.TB, api *client.ClientWithResponses, gateway *demo.Gateway, harness, text string) (ready, answered time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	begun := time.Now()
	agent, err := api.CreateAgentWithResponse(ctx, nil, client.AgentCreate{
		Model: "demo/echo", HarnessID: nullable.NewNullableWithValue(client.AgentCreateHarnessID(harness)),
	})
	if err != nil || agent.JSON200 == nil {
		t.Errorf("create agent: %v", err)
		return 0, 0
	}
	session, err := api.CreateSessionWithResponse(ctx, agent.JSON200.ID, nil, client.SessionCreate{InitialPrompt: nullable.NewNullableWithValue(text)})
	if err != nil || session.JSON200 == nil {
		t.Errorf("create session: %v", err)
		return 0, 0
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for answered == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("%s: no answer", text)
			return 0, 0
		}
		got, err := api.GetSessionWithResponse(ctx, session.JSON200.ID)
		if err == nil && got.JSON200 != nil && got.JSON200.Status == client.SessionStatusReady && ready == 0 {
			ready = time.Since(begun).Round(time.Millisecond)
		}
		if ready > 0 && asked(gateway, text) {
			answered = time.Since(begun).Round(time.Millisecond)
		}
	}
	return ready, answered
}

// asked tells whether a message has been answered by the gateway.
func asked(g *demo.Gateway, text string) bool {
	return slices.ContainsFunc(g.Requests(), func(r demo.Request) bool {
		return r.CompletionTokens > 0 && slices.ContainsFunc(r.Messages, func(m demo.Message) bool { return m.Role == "user" && strings.Contains(m.Text, text) })
	})
}

// memoryByPart is what is resident of each process below a directory, in MB, by program.
func memoryByPart(dir string) map[string][]int {
	parts := map[string][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range stats {
		proc := filepath.Dir(path)
		env, err := os.ReadFile(filepath.Join(proc, "environ"))
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		args := strings.Split(string(line), "\x00")
		below := strings.Contains(string(line), dir+"/") || strings.Contains(string(env), "="+dir+"/")
		name := filepath.Base(args[0])
		if err != nil || len(args) < 2 || !below || name == "lap" && args[1] == "serve" {
			continue
		}
		if args[1] == "sandboxd" {
			name = "sandboxd"
		}
		text, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		if fields := strings.Fields(rest); len(fields) > 0 {
			kb, _ := strconv.Atoi(fields[0])
			parts[name] = append(parts[name], kb>>10)
		}
	}
	for _, mb := range parts {
		slices.Sort(mb)
	}
	return parts
}
