package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// reach tries hosts with what agents use: one line a finding.
const reach = `
say() { printf '<%s=%s>\n' "$1" "$2"; }
get() { python3 - "$1" <<'EOF'
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except urllib.error.HTTPError as e:
    print(e.code, __import__("json").load(e).get("rule"))
except Exception as e:
    print("failed")
EOF
}
say allowed "$(get http://allowed.example/)"
say denied "$(get http://denied.example/)"
say other "$(get http://other.example/)"
say inside "$(get http://inside.example/)"
say metadata "$(get http://169.254.169.254/latest)"
say again "$(get http://denied.example/)"
say git "$(git ls-remote http://allowed.example/x.git | wc -l)"
say gitdenied "$(git ls-remote http://denied.example/x.git 2>&1 | grep -c 403)"
say pip "$(python3 -m venv v && v/bin/python -m pip download -q --no-deps --disable-pip-version-check --trusted-host allowed.example --index-url http://allowed.example/simple lapdemo 2>&1; ls | grep -c whl)"
say npm "$(npm view --registry http://allowed.example/npm demo version 2>/dev/null)"
say raw "$(python3 -c 'import socket; socket.create_connection(("93.184.215.14", 80), 5); print("reached")' 2>/dev/null || echo no)"
say end .
`

// serveInternet is every public host: a page, a repository, and an index for pip and npm each.
func serveInternet(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"init", "-q", "--bare", "x.git"}, {"init", "-q", "w"},
		{"-C", "w", "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "--allow-empty", "-m", "one"},
		{"-C", "w", "-c", "protocol.file.allow=always", "push", "-q", "../x.git", "HEAD:refs/heads/main"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v %s", args, err, out)
		}
	}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/x.git/", &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	})
	index := packageIndex(t)
	mux.Handle("/simple/", index)
	mux.Handle("/files/", index)
	mux.HandleFunc("/npm/demo", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"name":"demo","dist-tags":{"latest":"1.2.3"},"versions":{"1.2.3":{"name":"demo","version":"1.2.3","dist":{"tarball":"http://allowed.example/x"}}}}`)
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	l, err := net.Listen("tcp", servertest.PublicAddr+":80")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	s.Start()
	t.Cleanup(s.Close)
}

// credentialForm is how each credential begins: with its session.
const credentialForm = "v1.eyJzaWQiOi"

func TestASandboxReachesWhatItsAgentMayAndNothingElse(t *testing.T) {
	if !servertest.InNetwork(t) {
		return
	}
	serveInternet(t)
	metrics := servertest.FreeAddr(t)
	s := newServer(t, storetest.KindSQLite, "METRICS_ADDR="+metrics)
	id := s.open(client.AgentCreate{
		Model: "demo/egress", AllowOut: nullable.NewNullableWithValue([]string{"allowed.example", "denied.example", "inside.example"}),
		DenyOut: nullable.NewNullableWithValue([]string{"denied.example"}),
		SandboxFiles: nullable.NewNullableWithValue([]client.SandboxFileCreate{
			{Name: "r", SandboxPath: "~/reach.sh", Content: []byte(reach)},
		}),
	}, client.SessionCreate{})
	s.await(id, client.SessionStatusReady)
	s.ended(id, s.post(id, "RUN: sh ~/reach.sh"))
	said := map[string]string{}
	for _, r := range s.gateway.Requests() {
		for _, m := range regexp.MustCompile(`(?s)<([a-z]+)=(.*?)>`).FindAllStringSubmatch(toolOutput(r), -1) {
			said[m[1]] = strings.TrimSpace(m[2])
		}
	}
	for name, want := range map[string]string{
		"allowed": "200", "denied": "403 deny_out", "other": "403 allow_out", "inside": "403 blocked", "metadata": "403 blocked", "again": "403 deny_out",
		"git": "1", "gitdenied": "1", "pip": "1", "npm": "1.2.3", "raw": "no", "end": ".",
	} {
		if said[name] != want {
			t.Errorf("%s is %q, want %q", name, said[name], want)
		}
	}
	checkReport(t, s, id)
	checkMetrics(t, "http://"+metrics+"/metrics")
	checkCredentialIsNowhere(t, s, id)
}

func checkMetrics(t *testing.T, url string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []string{`connections_total{verdict="allowed"}`, `connections_total{verdict="denied"}`, `bytes_total{direction="received"}`} {
		if m := regexp.MustCompile(`(?m)^lap_egress_` + regexp.QuoteMeta(series) + ` ([1-9]\S*)$`).FindSubmatch(text); m == nil {
			t.Errorf("%s is not counted", series)
		}
	}
}

func checkReport(t *testing.T, s *server, id string) {
	t.Helper()
	r, err := s.api.GetSessionEgressWithResponse(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	report := must(t, "egress", r.JSON200, r.HTTPResponse, r.Body, err)
	found := map[string]client.EgressDecision{}
	for _, d := range report.Decisions {
		if _, ok := found[d.Host]; !ok {
			found[d.Host] = d
		}
	}
	if d := found["allowed.example"]; d.Verdict != "allowed" || d.Rule != "allow_out" || d.Address.MustGet() != servertest.PublicAddr || d.BytesSent == 0 || d.BytesReceived == 0 {
		t.Errorf("allowed: %+v", d)
	}
	if d := found["inside.example"]; d.Verdict != "denied" || d.Rule != "blocked" || !d.Address.IsNull() {
		t.Errorf("inside: %+v", d)
	}
	var events []string
	s.eventually("events of all denials", time.Minute, func() bool {
		page, err := s.api.StreamEventsWithResponse(t.Context(), id, &client.StreamEventsParams{Follow: new(bool), Limit: ptr(1000)})
		if err != nil || page.JSON200 == nil {
			t.Fatalf("events: %v", err)
		}
		events = nil
		for _, e := range page.JSON200.Data {
			if e.Type == "egress.denied" || e.Type == "egress.allowed" {
				b, _ := json.Marshal(e.Data)
				events = append(events, e.Type+string(b))
			}
		}
		all := strings.Join(events, "\n")
		return strings.Contains(all, "denied.example") && strings.Contains(all, "other.example") && strings.Contains(all, "169.254.169.254") && strings.Contains(all, "egress.allowed")
	})
	if n := strings.Count(strings.Join(events, "\n"), `"rule":"deny_out"`); n != 1 {
		t.Errorf("%d events of one kind of denial: %q", n, events)
	}
}

// checkCredentialIsNowhere looks where people and tools may look.
func checkCredentialIsNowhere(t *testing.T, s *server, id string) {
	t.Helper()
	diagnosis, err := s.api.DiagnoseSessionWithResponse(t.Context(), id)
	if err != nil || diagnosis.JSON200 == nil {
		t.Fatalf("diagnose: %v", err)
	}
	logs, err := s.api.GetSandboxLogsWithResponse(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"diagnose": string(diagnosis.Body), "sandbox_logs": string(logs.Body)}
	files, err := filepath.Glob(s.dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	boxes, _ := filepath.Glob(s.dir + "/sandboxes/*/*")
	states, _ := filepath.Glob(s.dir + "/sandboxes/*/state/*")
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, list := range [][]string{files, boxes, states, processes, environments} {
		for _, path := range list {
			if b, err := os.ReadFile(path); err == nil {
				places[path] = string(b)
			}
		}
	}
	for place, text := range places {
		if strings.Contains(text, credentialForm) {
			t.Errorf("%s has the credential", place)
		}
	}
	if len(processes) == 0 || !strings.Contains(places[filepath.Join(s.dir, "server.log")], "serving") {
		t.Error("the places were not read")
	}
}
