package agent_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestEveryCallWithoutAValidTokenIsRefused(t *testing.T) {
	t.Parallel()
	b := boot(t)
	id := sandbox.ID(b.c.SandboxID)
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := b.token(id, b.key, time.Hour)
	if r, err := b.caller(good).GetHealthWithResponse(context.Background()); err != nil || r.StatusCode() != 200 {
		t.Fatalf("a good token: %v", err)
	}
	calls := [][2]string{
		{"GET", "/v1/health"}, {"PUT", "/v1/session"}, {"POST", "/v1/turns"}, {"POST", "/v1/turns/x/abort"}, {"GET", "/v1/events"},
		{"GET", "/"}, {"DELETE", "/v1/health"},
	}
	for name, tokens := range map[string][]string{
		"none": nil, "empty": {""}, "garbage": {"v1.x.y"}, "another sandbox's": {b.token("other", b.key, time.Hour)},
		"another key's": {b.token(id, other, time.Hour)}, "expired": {b.token(id, b.key, -time.Hour)}, "two": {good, good},
		"a tail added": {good + "A"},
	} {
		for _, c := range calls {
			req, err := http.NewRequest(c[0], "http://sandbox"+c[1], strings.NewReader("{"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header[sandbox.TokenHeader] = tokens
			req.Header.Set("Authorization", "Bearer "+good)
			resp, err := b.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var refusal sandboxd.Refusal
			err = json.NewDecoder(resp.Body).Decode(&refusal)
			resp.Body.Close()
			if resp.StatusCode != 401 || err != nil || refusal.Error == "" {
				t.Errorf("%s token, %s %s: %d %v", name, c[0], c[1], resp.StatusCode, err)
			}
		}
	}
}

func TestARememberedTokenStopsCountingWhenItExpires(t *testing.T) {
	t.Parallel()
	b := boot(t)
	// Tokens have a resolution of a second and 30 s of grace.
	c := b.caller(b.token(sandbox.ID(b.c.SandboxID), b.key, -28*time.Second))
	if r, err := c.GetHealthWithResponse(context.Background()); err != nil || r.StatusCode() != 200 {
		t.Fatalf("not yet expired: %v", err)
	}
	eventually(t, "it is refused", func() bool {
		r, err := c.GetHealthWithResponse(context.Background())
		return err == nil && r.StatusCode() == 401
	})
}

func TestBindingIsIdempotentAndExclusive(t *testing.T) {
	t.Parallel()
	b := boot(t)
	if h := b.health(); h.State != "unbound" || h.Attempt != 0 || h.SessionID != nil || h.Protocol != 1 || h.SandboxID != b.c.SandboxID {
		t.Errorf("unbound: %+v", h)
	}
	b.ready()
	last := b.health().LastN
	b.bind(func(c *sandboxd.SessionConfig) { c.Model = "changed" })
	h := b.health()
	if h.State != "ready" || h.Attempt != 1 || *h.SessionID != "session-1" || h.LastN != last {
		t.Errorf("after a repetition: %+v", h)
	}
	for name, f := range map[string]func(*sandboxd.SessionConfig){
		"session": func(c *sandboxd.SessionConfig) { c.SessionID = "session-2" },
		"attempt": func(c *sandboxd.SessionConfig) { c.Attempt = 2 },
	} {
		r, err := b.client.BindSessionWithResponse(context.Background(), b.config(f))
		if err != nil || r.JSON409 == nil {
			t.Errorf("another %s: %v %s", name, err, r.Body)
		}
	}
	if got := b.fake.config(1).Model; got != "m" {
		t.Errorf("model %q", got)
	}
}

func TestABadConfigurationIsRefusedAndLeavesTheSandboxUnbound(t *testing.T) {
	t.Parallel()
	b := boot(t)
	repo := func(url, branch string) func(*sandboxd.SessionConfig) {
		return func(c *sandboxd.SessionConfig) { c.Repo = &sandboxd.Repo{URL: url, Branch: branch, BranchSet: true} }
	}
	file := func(path string) func(*sandboxd.SessionConfig) {
		return func(c *sandboxd.SessionConfig) { c.Files = []sandboxd.File{{Path: path}} }
	}
	for name, f := range map[string]func(*sandboxd.SessionConfig){
		"no session":          func(c *sandboxd.SessionConfig) { c.SessionID = "" },
		"attempt 0":           func(c *sandboxd.SessionConfig) { c.Attempt = 0 },
		"unknown harness":     func(c *sandboxd.SessionConfig) { c.HarnessID = "codex" },
		"no model":            func(c *sandboxd.SessionConfig) { c.Model = "" },
		"env with =":          func(c *sandboxd.SessionConfig) { c.Env = map[string]string{"A=B": ""} },
		"env with NUL":        func(c *sandboxd.SessionConfig) { c.Env = map[string]string{"A": "\x00"} },
		"file above":          file("~/../../x"),
		"file elsewhere":      file("/etc/passwd"),
		"file without a name": file("/workspace/"),
		"home as a file":      file("~"),
		"repo over http":      repo("http://host/x", "main"),
		"repo from disk":      repo("file:///x", "main"),
		"repo by ext":         repo("ext::sh -c id", "main"),
		"repo with a user":    repo("https://me:pw@host/x", "main"),
		"branch as an option": repo("https://host/x", "--upload-pack=id"),
	} {
		r, err := b.client.BindSessionWithResponse(context.Background(), b.config(f))
		if err != nil || r.JSON400 == nil {
			t.Errorf("%s: %v %d %s", name, err, r.StatusCode(), r.Body)
		}
	}
	for name, body := range map[string]string{"not JSON": "{", "wrong type": `{"attempt":"1"}`, "too large": `{"model":"` + strings.Repeat("x", 65<<20) + `"}`} {
		r, err := b.client.BindSessionWithBodyWithResponse(context.Background(), "application/json", strings.NewReader(body))
		if err == nil && r.JSON400 == nil {
			t.Errorf("%s: %d", name, r.StatusCode())
		}
	}
	if h := b.health(); h.State != "unbound" {
		t.Errorf("state %s", h.State)
	}
}

func TestAttemptGoesThroughItsPhasesInOrder(t *testing.T) {
	t.Parallel()
	b := boot(t)
	all := b.ready()
	var got []string
	for _, r := range all {
		if r.Type == "phase" {
			got = append(got, field(t, r, "phase"))
		}
	}
	want := []string{"injecting_files", "waiting_harness", "harness_listening", "harness_ready", "ready"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("phases %v", got)
	}
	if id := field(t, all[len(all)-1], "harness_session_id"); id != "native-1" {
		t.Errorf("harness session %q", id)
	}
}

func TestAHarnessThatDoesNotStartFailsTheAttemptWithItsReason(t *testing.T) {
	t.Parallel()
	b := boot(t, func(b *box) {
		b.fake.startErr = func(int) error { return errSay("fake exited with code 1: cannot use sk-gateway-key") }
	})
	if reason := b.failure(); reason != "fake exited with code 1: cannot use ********" {
		t.Errorf("reason %q", reason)
	}
	if status := b.turn("t1", "say hello"); status != 409 {
		t.Errorf("turn after failure: %d", status)
	}
}

type errSay string

func (e errSay) Error() string { return string(e) }

func TestTheHarnessSeesItsOwnEnvironmentAndNothingElse(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready(func(c *sandboxd.SessionConfig) {
		c.Env = map[string]string{"A": "b", "HOME": "/elsewhere", "GIT_TOKEN": "secret", "TERM": "dumb"}
		c.McpServers = []string{"https://mcp"}
		prompt, native := "be good", "native-9"
		c.Prompt, c.HarnessSessionID = &prompt, &native
	})
	c := b.fake.config(1)
	want := []string{
		"A=b", "HOME=" + filepath.Join(b.c.Root, "workspace/home"), "LANG=C.UTF-8", "LAP_SANDBOX_ID=" + b.c.SandboxID,
		"PATH=" + os.Getenv("PATH"), "TERM=dumb", "TMPDIR=" + filepath.Join(b.c.Root, "tmp"),
	}
	if !reflect.DeepEqual(c.Env, want) {
		t.Errorf("environment %v", c.Env)
	}
	if c.Dir != filepath.Join(b.c.Root, "workspace/repo") || c.Prompt != "be good" || c.Resume != "native-9" || len(c.MCP) != 1 {
		t.Errorf("config %+v", c)
	}
	if st, err := os.Stat(c.StateDir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v", err)
	}
}

func TestSandboxdEndsItselfWhenNobodyCalls(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.c.IdleExitS = 1
	err := agent.Run(context.Background(), b.c, map[string]harness.Harness{"fake": b.fake}, discard())
	if err != nil {
		t.Fatal(err)
	}
	if e := b.exit(); e.Code != 0 || e.Reason != "no caller for 1s" {
		t.Errorf("exit %+v", e)
	}
	if _, err := os.Lstat(filepath.Join(b.c.Dir, "sock")); err == nil {
		t.Error("the socket is left")
	}
}

func TestAFollowerOfTheLogKeepsSandboxdAlive(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.c.IdleExitS = 1
	b.start()
	resp, err := b.client.StreamEvents(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	select {
	case <-time.After(1500 * time.Millisecond):
	case err := <-b.ended:
		b.ended <- err
		t.Fatal("it ended while somebody listened")
	}
	resp.Body.Close()
	eventually(t, "it ends", func() bool { _, err := os.Stat(filepath.Join(b.c.Dir, "exit.json")); return err == nil })
}

func TestTwoSandboxdsCannotShareADirectory(t *testing.T) {
	t.Parallel()
	b := boot(t)
	pid, err := os.ReadFile(filepath.Join(b.c.Dir, "pid.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Run(context.Background(), b.c, nil, discard()); err == nil || !strings.Contains(err.Error(), "another sandboxd") {
		t.Errorf("second one: %v", err)
	}
	if again, err := os.ReadFile(filepath.Join(b.c.Dir, "pid.json")); err != nil || !bytes.Equal(pid, again) {
		t.Error("the second one overwrote pid.json")
	}
	if _, err := os.Stat(filepath.Join(b.c.Dir, "exit.json")); err == nil {
		t.Error("the second one wrote exit.json")
	}
}

func TestStreamsEndWhenSandboxdDoes(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready()
	if status := b.turn("t1", "wait"); status != 202 {
		t.Fatal(status)
	}
	got, listening := make(chan []sandboxd.Record, 1), make(chan struct{})
	go func() {
		defer close(got)
		got <- b.follow(0, func(r sandboxd.Record) bool {
			if r.Type == "turn.started" {
				close(listening)
			}
			return isEnd(r)
		})
	}()
	<-listening
	eventually(t, "the harness hears", func() bool { return len(b.fake.heard()) == 1 })
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	all := <-got
	if len(all) == 0 {
		t.Fatal("the end of the turn did not come")
	}
	if e := result(t, all[len(all)-1]).Error; e == nil || e.Name != "turn_interrupted" {
		t.Errorf("end %s", all[len(all)-1].Data)
	}
	if e := b.exit(); e.Code != 0 || e.Reason != "it was asked to stop" {
		t.Errorf("exit %+v", e)
	}
}
