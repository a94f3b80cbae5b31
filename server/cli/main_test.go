package cli_test

import (
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/server/cli"
)

// asLap makes the test binary the program under test.
const asLap = "LAP_TEST_AS_LAP=1"

func TestMain(m *testing.M) {
	if os.Getenv("LAP_TEST_AS_LAP") != "" {
		os.Exit(cli.Main(os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

const testKey = "cli-test-key-0123456789"

// lap is a client command that talks to a server.
func lap(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = []string{asLap, "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "XDG_CONFIG_HOME=" + t.TempDir(), "LAP_URL=" + url, "LAP_KEY=" + testKey}
	return cmd
}
