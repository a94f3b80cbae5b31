package main_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/openapi"
	"github.com/litellm-agent-platform/lap/server/servertest"
)

const prismPath = "../openapi/node_modules/@stoplight/prism-cli/dist/index.js"

// startPrism starts Prism with the document and returns its URL. What it says is written to the test's log if the test fails.
func startPrism(t *testing.T, mode string, args ...string) string {
	t.Helper()
	if _, err := os.Stat(prismPath); err != nil {
		t.Fatalf(`%v: run "go tool task spec:install"`, err)
	}
	// Prism adds null to a nullable enum that has it already, as OpenAPI wants it, and then does not check the body at all.
	text := string(openapi.YAML)
	if n := strings.Count(text, "codex, null]"); n != 1 {
		t.Fatalf("%d enums list null, want one", n)
	}
	document := filepath.Join(t.TempDir(), "openapi.yaml")
	if err := os.WriteFile(document, []byte(strings.Replace(text, "codex, null]", "codex]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := servertest.FreeAddr(t)
	host, port, _ := strings.Cut(addr, ":")
	cmd := exec.Command("node", append([]string{prismPath, mode, document, "--host", host, "--port", port}, args...)...)
	said := &said{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prism said:\n%s", said.tail(6000))
		}
	})
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			return "http://" + addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("Prism does not listen: %s", said.tail(2000))
		}
		<-time.After(20 * time.Millisecond)
	}
}

type said struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) tail(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()[max(0, s.b.Len()-n):]
}

// A mock server made of the document alone, as another team runs one, answers every operation with the examples that it shows.
func TestPrismMocksEveryOperationFromTheDocument(t *testing.T) {
	t.Parallel()
	w := &tour{server: &server{t: t}, ops: endpoints(t)}
	w.prism = startPrism(t, "mock")
	answers := 0
	for id, op := range w.ops {
		if id == "openTerminal" { // it has no answer but the upgrade
			continue
		}
		c := call{op: id}
		if op.RequestBody != nil {
			for c.body = range op.RequestBody.Value.Content["application/json"].Examples {
				break
			}
		}
		for status, answer := range op.Responses.Map() {
			for name, example := range jsonExamples(answer) {
				got := w.mocked(c, http.Header{"Authorization": {"Bearer any"}, "Prefer": {"code=" + status + ", example=" + name}, "Accept": {"application/json"}}, status)
				if want := plain(t, example.Value.Value); !reflect.DeepEqual(got, want) {
					t.Errorf("%s %s %s: %v, want %v", id, status, name, got, want)
				}
				answers++
			}
		}
		if op.Security == nil {
			w.mocked(c, http.Header{"Accept": {"application/json"}}, "401")
		}
		if op.RequestBody != nil {
			c.body, c.text = "", `{"unknown":1}`
			refusal := "400"
			if op.Responses.Status(http.StatusUnprocessableEntity) != nil {
				refusal = "422" // which Prism prefers for what is invalid, whatever the document says of it
			}
			w.mocked(c, http.Header{"Authorization": {"Bearer any"}, "Accept": {"application/json"}}, refusal)
		}
	}
	t.Logf("%d answers of %d operations", answers, len(w.ops)-1)
}

// mocked returns what Prism answers, with the given status.
func (w *tour) mocked(c call, header http.Header, status string) (v any) {
	w.t.Helper()
	r := w.request(c)
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || strconv.Itoa(resp.StatusCode) != status {
		w.t.Errorf("%s: %v, %d, want %s: %s", c.op, err, resp.StatusCode, status, body)
	}
	if err := json.Unmarshal(body, &v); err != nil && len(body) > 0 {
		w.t.Errorf("%s: %v: %s", c.op, err, body)
	}
	return v
}

func jsonExamples(answer *openapi3.ResponseRef) openapi3.Examples {
	if media := answer.Value.Content["application/json"]; media != nil {
		return media.Examples
	}
	return nil
}
