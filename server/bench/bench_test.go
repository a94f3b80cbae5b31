package bench_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var (
	databases = flag.String("databases", "postgres,sqlite", "databases to measure on")
	rows      = flag.String("rows", "100,10000,1000000", "numbers of agents to measure with, ascending")
	clients   = flag.String("clients", "1,16,64", "numbers of connections to measure with")
	duration  = flag.Duration("for", 1500*time.Millisecond, "time of each measurement")
	settle    = flag.Duration("settle", 30*time.Second, "time after the large creates until memory is read again")
	binary    = flag.String("binary", "", "program to measure; default: built from this module")
)

func TestMain(m *testing.M) { storetest.Main(m) }

// plan is what is measured on each database.
type plan struct {
	rows, clients []int
	duration      time.Duration
	large         []int // numbers of large creates at once
	settle        time.Duration
}

func BenchmarkServer(b *testing.B) {
	p := plan{numbers(b, *rows), numbers(b, *clients), *duration, []int{1, 8}, *settle}
	program := build(b)
	out := newReport(os.Stdout)
	for _, kind := range strings.Split(*databases, ",") {
		p.measure(b, program, kind, out)
	}
}

func TestTheBenchmarkRunsOnBothDatabases(t *testing.T) {
	t.Parallel()
	program := build(t)
	storetest.EachKind(t, func(t *testing.T, kind string) {
		plan{rows: []int{60, 120}, clients: []int{2}, duration: time.Millisecond, large: []int{1}}.measure(t, program, kind, newReport(io.Discard))
	})
}

func numbers(t testing.TB, list string) (ns []int) {
	t.Helper()
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("%q is not a list of numbers", list)
		}
		ns = append(ns, n)
	}
	return ns
}

func build(t testing.TB) string {
	t.Helper()
	if *binary != "" {
		return *binary
	}
	return servertest.Build(t)
}

const agents = "/api/v1/managed_agents/agents"

// text is what agents are made of: about 2 KB with the rest.
var text = strings.Repeat("Read the failing test first, say what it expects and why, then fix it. ", 21)

func agent(name string) string {
	return `{"model":"anthropic/claude-sonnet-4-5","name":"` + name + `","prompt":"` + text + `","repo_url":"https://github.com/example/service.git",
		"mcp_servers":["docs=https://mcp.example.com/docs","https://mcp.example.com/tickets"],"allow_out":["*.example.com","registry.npmjs.org"],
		"env_vars":{"GITHUB_TOKEN":"ghp_0123456789abcdef0123456789abcdef0123","NODE_ENV":"test"},"idle_timeout_ms":3600000}`
}

// measure fills the table's lines for one database.
func (p plan) measure(t testing.TB, program, kind string, out *report) {
	t.Helper()
	s := newServer(t, program, kind)
	s.start() // makes the schema
	first := map[string]float64{}
	for i, n := range p.rows {
		s.stop()
		storetest.LoadAgents(t, kind, s.dsn, n)
		took := s.start()
		if i == 0 {
			out.figure(kind, "start to first 200", fmt.Sprintf("%d ms", took.Milliseconds()), "300 ms")
			now, _ := s.memory()
			out.figure(kind, "idle memory", fmt.Sprintf("%d MB", now), "60 MB")
		}
		conns := p.clients
		if i > 0 {
			conns = conns[len(conns)/2 : len(conns)/2+1]
		}
		for _, op := range s.operations(n, i == 0) {
			for _, c := range conns {
				op.conns = c
				result := s.cell(op, n, p.duration)
				key := fmt.Sprint(op.name, c)
				if i == 0 {
					first[key] = result.rate()
				} else {
					result.base = first[key]
				}
				out.add(result)
			}
		}
	}
	s.large(out, p.large, p.settle)
	s.stop()
}

// operation is one kind of request.
type operation struct {
	load
	name string
	goal goal
}

func same(request []byte) func(int, int) []byte { return func(int, int) []byte { return request } }

// operations returns what to measure, with the writing ones at the end, for they add rows.
func (s *server) operations(n int, writes bool) []operation {
	ids := s.create(64)
	get := make([][]byte, len(ids))
	for i, id := range ids {
		get[i] = request("GET", agents+"/"+id, "")
	}
	var middle struct {
		NextCursor string `json:"next_cursor"`
	}
	page := once(s.t, s.addr, request("GET", fmt.Sprintf("%s?limit=1&total=false&offset=%d", agents, n/2-26), ""))
	if err := json.Unmarshal(page, &middle); err != nil {
		s.t.Fatal(err)
	}
	list := func(name, query string, g goal) operation {
		return operation{load{status: 200, request: same(request("GET", agents+"?limit=50"+query, ""))}, "list 50, " + name, g}
	}
	lists := goal{167, 6}
	ops := []operation{
		{load{status: 401, request: same(request("GET", agents, "", wrongKey))}, "wrong key", goal{1018, 20}},
		{load{status: 200, request: func(client, n int) []byte { return get[client%len(get)] }}, "get one", goal{541, 20}},
		list("first page", "&total=false", lists),
		list("middle page", "&total=false&cursor="+middle.NextCursor, lists),
		list("by name", "&total=false&sort=name&order=asc", lists),
		list("by harness", "&total=false&sort=harness_id", lists),
		list("by sessions", "&total=false&sort=sessions", lists),
		list("of one harness", "&total=false&harness_id=codex", lists),
		list("with total", "", goal{}),
	}
	if !writes {
		return ops
	}
	patch := func(client, n int) []byte {
		return request("PATCH", agents+"/"+ids[client%len(ids)], `{"name":"`+strconv.Itoa(n)+`"}`)
	}
	return append(ops,
		operation{load{status: 200, request: same(request("POST", agents, agent("New")))}, "create, 2 KB", goal{402, 6}},
		operation{load{status: 200, request: patch}, "patch", goal{}})
}

func (s *server) create(n int) (ids []string) {
	s.t.Helper()
	for range n {
		var a struct{ ID string }
		if err := json.Unmarshal(once(s.t, s.addr, request("POST", agents, agent("Target"))), &a); err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	return ids
}

func (s *server) cell(op operation, rows int, d time.Duration) cell {
	s.t.Helper()
	op.run(s.t, s.addr, d/10) // fills caches and opens connections to the database
	begun := time.Now()
	server, database := s.cpu()
	c := cell{kind: s.kind, op: op.name, rows: rows, conns: op.conns, goal: op.goal, took: op.run(s.t, s.addr, d)}
	c.wall = time.Since(begun)
	c.cpu, c.database = s.cpu()
	c.cpu -= server
	c.database -= database
	return c
}

// memoryBudgets are in MB, by the number of large creates at once.
var memoryBudgets = map[int]int{1: 150, 8: 400}

// large creates agents of 15 MB, as large as files and prompt can be, and reads the server's memory.
func (s *server) large(out *report, at []int, settle time.Duration) {
	s.t.Helper()
	s.stop()
	s.start()
	content := strings.Repeat("0123456789abcdef", 10<<20/20/16)
	file := `{"name":"f","sandbox_path":"/tmp/f","content":"` + content + `"}`
	body := `{"model":"m","prompt":"` + strings.Repeat("\U0001d11e", 1<<20) + `","sandbox_files":[` + strings.Repeat(file+",", 19) + file + `]}`
	body += strings.Repeat(" ", 15_000_000-len(body))
	post := request("POST", agents, body)
	for _, n := range at {
		s.forget()
		refused := s.atOnce(post, n)
		_, high := s.memory()
		value := fmt.Sprintf("%d MB", high)
		if refused > 0 {
			value += fmt.Sprintf(", %d refused", refused)
		}
		out.figure(s.kind, fmt.Sprintf("memory, 15 MB creates at once: %d", n), value, fmt.Sprintf("%d MB", memoryBudgets[n]))
	}
	if settle > 0 {
		<-time.After(settle)
		now, _ := s.memory()
		out.figure(s.kind, "memory "+settle.String()+" later", fmt.Sprintf("%d MB", now), "-")
	}
}

// atOnce sends a request n times at once and returns how often the server was too busy.
func (s *server) atOnce(post []byte, n int) int {
	s.t.Helper()
	var all sync.WaitGroup
	var refused atomic.Int64
	for range n {
		all.Go(func() {
			w, err := dial(s.addr)
			if err != nil {
				s.t.Error(err)
				return
			}
			defer w.Close()
			switch status, err := w.do(post); {
			case status == 503:
				refused.Add(1)
			case status != 200:
				s.t.Errorf("large create: %d, %v", status, err)
			}
		})
	}
	all.Wait()
	return int(refused.Load())
}
