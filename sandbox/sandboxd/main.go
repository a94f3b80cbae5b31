// Package main is sandboxd, the one binary that runs inside a sandbox. It must stay lean: it is copied into every pod.
package main

import (
	"os"
	"runtime"

	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func init() { runtime.LockOSThread() } // see agent.Main

func main() {
	os.Exit(agent.Main(os.Args[1:], harness.All()))
}
