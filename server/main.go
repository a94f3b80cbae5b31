// Command lap is the platform: `lap serve` runs the server, `lap egress` the way out of sandboxes, `lap demo` shows it working, `lap rekey` seals stored secrets with a
// new key, `lap contract` checks a deployment, `lap sandboxd` is what the local runtime starts inside a sandbox, and the commands
// of package cli are a client of a server. This package wires the parts together and owns nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/server/cli"
)

// version is set by the linker for releases.
var version = ""

const usage = `Usage: lap <command> [flags]

  serve     run the server; configured by environment variables
              --demo            answer with a built-in echo gateway instead of a model
              --stop-sandboxes  end all sandboxes when the server ends; they go on otherwise
  demo      from nothing to a conversation with a real coding agent, then leave the server running
              --once            end instead
  egress    run the proxy that is the only way out of sandboxes on Kubernetes, beside a server; configured by environment variables
  rekey     seal all stored secrets with the first key of ENCRYPTION_KEY, and say which of the others
            are still needed; stop the server first unless DATABASE_URL is set
  contract  check a deployment against the OpenAPI document with random requests, good and bad; --help lists the flags
  version   print the version

Commands of a client, configured by lap login or LAP_URL and LAP_KEY; lap <command> -h says more:

`

func asSandboxd() bool { return len(os.Args) > 1 && os.Args[1] == "sandboxd" }

func init() {
	if asSandboxd() {
		runtime.LockOSThread() // see agent.Main
	}
}

func main() {
	// sandboxd handles signals itself.
	if asSandboxd() {
		os.Exit(agent.Main(os.Args[2:], harness.All()))
	}
	if len(os.Args) > 1 && cli.Has(os.Args[1]) {
		os.Exit(cli.Main(os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "lap: %v\n", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("unknown command; see lap help")

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:], environ, stderr)
	case "demo":
		return demonstrate(ctx, args[1:], environ, stdout, stderr)
	case "egress":
		return proxyEgress(ctx, args[1:], environ, stderr)
	case "rekey":
		return rekey(ctx, args[1:], environ, stdout, stderr)
	case "contract":
		return checkContract(ctx, args[1:], environ, stdout, stderr)
	case "version", "--version":
		_, err := fmt.Fprintln(stdout, versionString())
		return err
	case "help", "--help", "-h":
		_, err := fmt.Fprint(stdout, usage+cli.Summary())
		return err
	}
	return errUsage
}

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
