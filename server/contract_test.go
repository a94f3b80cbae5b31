package main_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestTheContractCommandChecksADeployment(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	junit := filepath.Join(t.TempDir(), "junit.xml")
	contract := func(key string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), lap, append([]string{"contract", "--seed", "5", "--junit", junit}, args...)...)
		cmd.Env = []string{"LAP_URL=" + s.url, "LAP_KEY=" + key}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := contract(masterKey, "--requests", "1500"); err != nil || !strings.Contains(out, " 0 wrong") {
		t.Errorf("%v: %s", err, out)
	}
	if b, err := os.ReadFile(junit); err != nil || !strings.Contains(string(b), `failures="0"`) || !strings.Contains(string(b), `classname="createAgent"`) {
		t.Errorf("%v: %s", err, b)
	}
	if out, err := contract("wrong-key-canary"); err == nil || !strings.Contains(out, "the key does not open") || strings.Contains(out, "canary") {
		t.Errorf("%v: %s", err, out)
	}
	gateway := httptest.NewServer(demo.New("k"))
	defer gateway.Close()
	if out, err := contract(masterKey, "--url", gateway.URL); err == nil {
		t.Errorf("what is no deployment: %s", out)
	}
}
