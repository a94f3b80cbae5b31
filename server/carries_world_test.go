package main_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// world is a server and what its agents need of the rest: a forge with private repositories, a package index and MCP servers.
type world struct {
	s                *server
	forge, mcp, dead string       // URLs
	wrongKeys        atomic.Int32 // requests to the MCP server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dead: "http://" + servertest.FreeAddr(t)}
	forge := newForge(t)
	w.forge = forge.URL
	trust := filepath.Join(t.TempDir(), "forge.pem")
	if err := os.WriteFile(trust, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forge.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w.mcp = listen(t, http.HandlerFunc(w.serveMCP))
	index := listen(t, packageIndex(t))
	w.s = newServer(t, storetest.KindSQLite,
		"GIT_TOKEN="+platformToken, "GIT_TOKEN_HOSTS=127.0.0.1", "CONTAINER_ENV_GIT_SSL_CAINFO="+trust,
		"CONTAINER_ENV_PIP_INDEX_URL="+index+"/simple", "CONTAINER_ENV_ONLY_OPERATOR=operator-alone", "EGRESS_ALLOW_CIDRS=127.0.0.1")
	return w
}

func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// newForge serves, to those who have the platform's token, a repository with the branches trunk, its HEAD, and side, which has a
// submodule and a link that leads out; and an empty one.
func newForge(t *testing.T) *httptest.Server {
	t.Helper()
	dir := t.TempDir()
	git := func(in string, args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=trunk", "-c", "protocol.file.allow=always"}, args...)...)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	work := filepath.Join(dir, "work")
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git(dir, "init", "-q", work)
	write("README", "trunk")
	if err := os.Symlink("/", filepath.Join(work, "out")); err != nil {
		t.Fatal(err)
	}
	git(work, "add", ".")
	git(work, "commit", "-qm", "one")
	git(dir, "clone", "-q", "--bare", work, "part.git")
	git(work, "checkout", "-qb", "side")
	write("README", "side")
	git(work, "submodule", "--quiet", "add", filepath.Join(dir, "part.git"), "sub")
	git(work, "commit", "-qam", "two")
	git(work, "checkout", "-qf", "trunk")
	git(dir, "clone", "-q", "--bare", work, "x.git")
	git(dir, "init", "-q", "--bare", "empty.git")
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=x"},
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != platformToken {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// packageIndex has one package, lapdemo 1.0.
func packageIndex(t *testing.T) http.Handler {
	t.Helper()
	const file = "lapdemo-1.0-py3-none-any.whl"
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	for _, e := range [][2]string{
		{"lapdemo.py", "print('hello from lapdemo')\n"},
		{"lapdemo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: lapdemo\nVersion: 1.0\n"},
		{"lapdemo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"lapdemo-1.0.dist-info/RECORD", "lapdemo.py,,\nlapdemo-1.0.dist-info/METADATA,,\nlapdemo-1.0.dist-info/WHEEL,,\nlapdemo-1.0.dist-info/RECORD,,\n"},
	} {
		f, err := z.Create(e[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(f, e[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /simple/lapdemo/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><a href="/files/%s">%s</a>`, file, file)
	})
	mux.HandleFunc("GET /files/"+file, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wheel.Bytes()) })
	return mux
}

// pythonMCP is an MCP server over stdio with one tool.
const pythonMCP = `
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m:
        continue
    result = {}
    if m["method"] == "initialize":
        result = {"protocolVersion": m["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    elif m["method"] == "tools/list":
        result = {"tools": [{"name": "shout", "description": "shouts", "inputSchema": {"type": "object", "properties": {}}}]}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": result}), flush=True)
`

// serveMCP is an MCP server over HTTP with one tool.
func (w *world) serveMCP(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Key") != "session-canary" {
		w.wrongKeys.Add(1)
		rw.WriteHeader(http.StatusForbidden)
		return
	}
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params struct {
			ProtocolVersion string `json:"protocolVersion"`
		} `json:"params"`
	}
	if r.Method != http.MethodPost {
		rw.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if json.NewDecoder(r.Body).Decode(&m) != nil || m.ID == nil {
		rw.WriteHeader(http.StatusAccepted)
		return
	}
	result := map[string]any{}
	switch m.Method {
	case "initialize":
		result = map[string]any{
			"protocolVersion": m.Params.ProtocolVersion, "capabilities": map[string]any{"tools": map[string]any{}},
			"serverInfo": map[string]string{"name": "t", "version": "1"},
		}
	case "tools/list":
		tool := map[string]any{"name": "lookup", "description": "looks up", "inputSchema": map[string]any{"type": "object", "properties": map[string]any{}}}
		result = map[string]any{"tools": []any{tool}}
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(map[string]any{"jsonrpc": "2.0", "id": m.ID, "result": result})
}
