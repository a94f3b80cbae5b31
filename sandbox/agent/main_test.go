package agent_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func init() { runtime.LockOSThread() }

// The test binary is also sandboxd and the program of a harness, for the tests that need real processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "sandboxd":
			os.Exit(agent.Main(os.Args[2:], map[string]harness.Harness{"fake": processHarness{}}))
		case "sockets":
			os.Exit(trySockets(os.Args[2:]))
		case "harness":
			if err := beHarness(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}
