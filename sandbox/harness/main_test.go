package harness_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary also play two programs: opencode behind a connection that breaks, and an MCP server.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("TEST_CUTS") != "" && len(os.Args) > 1 && os.Args[1] == "serve":
		os.Exit(serveCut(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "mcp-server":
		serveMCP(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
