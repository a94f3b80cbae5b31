package main_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const platformToken = "git-canary-0123456789"

// probe is what the harness's own shell tool runs, from inside: one line a finding.
const probe = `
say() { printf '<%s=%s>\n' "$1" "$2"; }
say cwd "$(basename "$PWD")"
say branch "$(git rev-parse --abbrev-ref HEAD)"
say commits "$(git rev-list --count HEAD)"
say readme "$(cat README)"
say over "$(cat over.txt)"
say submodule "$(ls -A sub | wc -l)"
say remote "$(git config remote.origin.url)"
say given "$(cat "$HOME/../given.txt") $(stat -c %a "$HOME/../given.txt")"
say tmp "$(cat "$TMPDIR/t.txt")"
say note "$(cat ~/notes/n.md)"
say library "$(tail -n 1 ~/.claude/skills/from-library/SKILL.md)"
say session "$(tail -n 1 ~/.claude/skills/for-the-session/SKILL.md)"
say agents "$(tail -n 1 ~/.agents/skills/from-library/SKILL.md 2>&1)"
say python "$(python -m lapdemo) $(test "$(command -v python)" = "$VIRTUAL_ENV/bin/python" && echo venv)"
say operator "$FROM_OPERATOR $ONLY_OPERATOR"
say agent "$FROM_AGENT $ONLY_AGENT"
say own "$ONLY_SESSION"
say platform "$LITELLM_DEFAULT_MODEL $BRANCH ${GIT_TOKEN-none} ${MASTER_KEY-none} ${ENCRYPTION_KEY-none}"
token="$(printf '%s%s' git-can ary-0123456789)"
say kept "$(grep -rlsF "$token" "$HOME/.." "$TMPDIR" | head -c 300)"
found=
for p in /proc/[0-9]*; do
  tr '\0' '\n' <$p/environ 2>/dev/null | grep -q "^LAP_SANDBOX_ID=$LAP_SANDBOX_ID$" || continue
  cat $p/environ $p/cmdline 2>/dev/null | grep -qsF "$token" && found="$found $p"
  seen=1
done
say processes "$seen$found"
say end .
`

// everything is an agent with one of each that an agent can carry.
func (w *world) everything(id string) client.AgentCreate {
	library := w.s.skill("From library", "Library words.")
	return client.AgentCreate{
		Model: "demo/" + id, HarnessID: nullable.NewNullableWithValue(client.AgentCreateHarnessID(id)),
		Prompt: nullable.NewNullableWithValue("prompt-canary of " + id), Requirements: nullable.NewNullableWithValue("lapdemo==1.0\n"),
		RepoURL: nullable.NewNullableWithValue(w.forge + "/x.git"), Branch: nullable.NewNullableWithValue("side"),
		SkillIds: nullable.NewNullableWithValue([]string{library}),
		McpServers: nullable.NewNullableWithValue([]string{
			"remote=" + w.mcp + "/mcp#X-Key=${ONLY_SESSION}", "local=stdio:python3 ${HOME}/mcp.py", "dead=" + w.dead + "/mcp",
		}),
		EnvVars: nullable.NewNullableWithValue(map[string]string{
			"FROM_OPERATOR": "operator-by-agent", "FROM_AGENT": "agent", "ONLY_AGENT": "agent-alone",
		}),
		SandboxFiles: nullable.NewNullableWithValue([]client.SandboxFileCreate{
			{Name: "a", SandboxPath: "~/notes/n.md", Content: []byte("note")},
			{Name: "b", SandboxPath: "/workspace/given.txt", Content: []byte("given")},
			{Name: "c", SandboxPath: "/tmp/t.txt", Content: []byte("temporary")},
			{Name: "d", SandboxPath: "/workspace/repo/over.txt", Content: []byte("over the checkout")},
			{Name: "e", SandboxPath: "~/probe.sh", Content: []byte(probe)},
			{Name: "f", SandboxPath: "~/mcp.py", Content: []byte(pythonMCP)},
		}),
	}
}

func TestEverythingAnAgentCarriesIsInTheSandboxOfEveryHarness(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, id := range slices.Sorted(maps.Keys(harness.All())) {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			session := w.s.open(w.everything(id), client.SessionCreate{
				EnvVars:       nullable.NewNullableWithValue(map[string]string{"FROM_AGENT": "agent-by-session", "ONLY_SESSION": "session-canary"}),
				SkillIds:      nullable.NewNullableWithValue([]string{w.s.skill("For the session", "Session words.")}),
				InitialPrompt: nullable.NewNullableWithValue("RUN: sh ~/probe.sh"),
			})
			w.s.await(session, client.SessionStatusReady)
			ready := time.Since(begun)
			asked := w.answeredProbe(t, id)
			t.Logf("ready after %v, its tool's output seen after %v", ready, time.Since(begun))
			w.checkProbe(t, id, asked)
			w.checkModelSaw(t, id, asked)
			w.checkDiagnosis(t, session)
			w.checkNothingKept(t)
		})
	}
}

// answeredProbe waits for the request that brings the probe's output to the model.
func (w *world) answeredProbe(t *testing.T, id string) (found demo.Request) {
	t.Helper()
	w.s.eventually("output of the probe of "+id, 3*time.Minute, func() bool {
		for _, r := range w.s.gateway.Requests() {
			if r.Model == "demo/"+id && strings.Contains(toolOutput(r), "<end=.>") {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

func toolOutput(r demo.Request) string {
	for _, m := range slices.Backward(r.Messages) {
		if m.Role == "tool" {
			return m.Text
		}
	}
	return ""
}

func (w *world) checkProbe(t *testing.T, id string, asked demo.Request) {
	t.Helper()
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?s)<([a-z]+)=(.*?)>`).FindAllStringSubmatch(toolOutput(asked), -1) {
		got[m[1]] = strings.TrimSpace(m[2])
	}
	want := map[string]string{
		"cwd": "repo", "branch": "side", "commits": "1", "readme": "side", "over": "over the checkout", "submodule": "0",
		"remote": w.forge + "/x.git", "given": "given 644", "tmp": "temporary", "note": "note", "library": "Library words.",
		"session": "Session words.", "python": "hello from lapdemo venv", "operator": "operator-by-agent operator-alone",
		"agent": "agent-by-session agent-alone", "own": "session-canary", "platform": "demo/" + id + " side none none none",
		"kept": "", "processes": "1", "end": ".",
	}
	if id == "codex" {
		want["agents"] = "Library words."
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s is %q, want %q", key, got[key], value)
		}
	}
}

func (w *world) checkModelSaw(t *testing.T, id string, asked demo.Request) {
	t.Helper()
	instructions := ""
	for _, m := range asked.Messages {
		if m.Role != "tool" && m.Role != "assistant" {
			instructions += m.Text + "\n"
		}
	}
	for _, want := range []string{"prompt-canary of " + id, "Library words.", "Session words."} {
		if !strings.Contains(instructions, want) {
			t.Errorf("%q did not reach the model", want)
		}
	}
	for _, tool := range []string{"lookup", "shout"} {
		if !slices.ContainsFunc(asked.Tools, func(name string) bool { return strings.HasSuffix(name, tool) }) {
			t.Errorf("the tools %v have no %s", asked.Tools, tool)
		}
	}
	if !asked.KeyOK || w.wrongKeys.Load() > 0 {
		t.Errorf("right key %t, %d requests to the MCP server without theirs", asked.KeyOK, w.wrongKeys.Load())
	}
}

// checkDiagnosis wants the dead MCP server, and no other, to be known as such.
func (w *world) checkDiagnosis(t *testing.T, session string) {
	t.Helper()
	var d client.Diagnosis
	w.s.eventually("news of three MCP servers", time.Minute, func() bool {
		r, err := w.s.api.DiagnoseSessionWithResponse(t.Context(), session)
		if err != nil {
			t.Fatal(err)
		}
		d = must(t, "diagnose", r.JSON200, r.HTTPResponse, r.Body, err)
		return len(d.McpServers) == 3
	})
	var down []string
	for _, i := range d.DetectedIssues {
		if i.Code == "mcp_server_down" {
			down = append(down, i.Message)
		}
	}
	if len(down) != 1 || !strings.HasPrefix(down[0], "MCP server dead is ") {
		t.Errorf("issues %q, servers %+v", down, d.McpServers)
	}
}

// checkNothingKept wants the platform's token in no file of the server or its sandboxes.
func (w *world) checkNothingKept(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(w.s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // things come and go
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), platformToken) {
			t.Errorf("%s has the token", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// quickest is the harness that starts soonest.
func quickest() string {
	if _, ok := harness.All()["codex"]; ok {
		return "codex"
	}
	return "opencode"
}

func TestARepositoryIsTakenAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		repo, branch string
		status       client.SessionStatus
		want         string // of failure_reason, or of phase_detail
	}{
		"a branch that is missing":        {"/x.git", "absent", client.SessionStatusFailed, `it has no branch "absent"; its HEAD is trunk`},
		"no main, and none was asked for": {"/x.git", "", client.SessionStatusReady, `the repository has no branch "main"; its HEAD trunk was taken`},
		"an empty one":                    {"/empty.git", "", client.SessionStatusReady, "the repository is empty"},
		"one that is not there":           {"/none.git", "", client.SessionStatusFailed, "clone " + w.forge + "/none.git: git: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := client.AgentCreate{Model: "demo/repo", HarnessID: nullable.NewNullableWithValue(client.AgentCreateHarnessID(quickest()))}
			agent.RepoURL = nullable.NewNullableWithValue(w.forge + c.repo)
			if c.branch != "" {
				agent.Branch = nullable.NewNullableWithValue(c.branch)
			}
			id := w.s.open(agent, client.SessionCreate{})
			got := w.s.await(id, c.status)
			said, _ := got.FailureReason.Get()
			if c.status == client.SessionStatusReady {
				said, _ = got.PhaseDetail.Get()
			}
			if !strings.Contains(said, c.want) || strings.Contains(said, platformToken) {
				t.Errorf("it says %q, want %q", said, c.want)
			}
		})
	}
}

func TestWhatCannotBeCarriedFailsTheSessionTruthfully(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	outside := filepath.Join(t.TempDir(), "x")
	for name, c := range map[string]struct {
		change func(*client.AgentCreate)
		want   string
	}{
		"requirements that do not exist": {func(a *client.AgentCreate) {
			a.Requirements = nullable.NewNullableWithValue("lapdemo==9.9\n")
		}, "install requirements: pip: ERROR: Could not find a version that satisfies the requirement lapdemo==9.9"},
		"requirements that make no sense": {func(a *client.AgentCreate) {
			a.Requirements = nullable.NewNullableWithValue("not a requirement\n")
		}, "install requirements: pip: ERROR: Invalid requirement: "},
		"a file through a link that leads out": {func(a *client.AgentCreate) {
			a.RepoURL = nullable.NewNullableWithValue(w.forge + "/x.git")
			a.SandboxFiles = nullable.NewNullableWithValue([]client.SandboxFileCreate{
				{Name: "x", SandboxPath: "/workspace/repo/out" + outside, Content: []byte("x")},
			})
		}, "write /workspace/repo/out" + outside + ": "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := client.AgentCreate{Model: "demo/fails", HarnessID: nullable.NewNullableWithValue(client.AgentCreateHarnessID(quickest()))}
			c.change(&agent)
			got := w.s.await(w.s.open(agent, client.SessionCreate{}), client.SessionStatusFailed)
			if reason, _ := got.FailureReason.Get(); !strings.Contains(reason, c.want) {
				t.Errorf("reason %q, want %q", reason, c.want)
			}
		})
	}
	t.Cleanup(func() {
		if _, err := os.Stat(outside); err == nil {
			t.Error("the file was written outside")
		}
	})
}

func TestWhatMustNotBeCarriedIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	file := func(path string) func(*client.AgentCreate) {
		return func(a *client.AgentCreate) {
			a.SandboxFiles = nullable.NewNullableWithValue([]client.SandboxFileCreate{{Name: "x", SandboxPath: path, Content: []byte("x")}})
		}
	}
	changes := map[string]func(*client.AgentCreate){}
	for _, path := range []string{"~/../x", "/workspace/../etc/x", "/etc/passwd", "/tmp/a/../../x", "relative", "~root/x"} {
		changes["the file "+path] = file(path)
	}
	for _, key := range []string{"REPO_URL", "BRANCH", "LITELLM_API_KEY", "LITELLM_API_BASE", "LITELLM_DEFAULT_MODEL", "AGENT_PROMPT", "PORT", "GIT_TOKEN", "AGENT_REQUIREMENTS"} {
		changes["the variable "+key] = func(a *client.AgentCreate) {
			a.EnvVars = nullable.NewNullableWithValue(map[string]string{key: "x"})
		}
	}
	for name, change := range changes {
		agent := client.AgentCreate{Model: "demo/refused"}
		change(&agent)
		r, err := s.api.CreateAgentWithResponse(t.Context(), nil, agent)
		if err != nil {
			t.Fatal(err)
		}
		if r.JSON400 == nil || len(r.JSON400.Details) != 1 {
			t.Errorf("%s: %s %s", name, r.Status(), fmt.Sprintf("%.300s", r.Body))
		}
	}
}
