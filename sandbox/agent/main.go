package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// gcPercent trades time, of which sandboxd needs little, for memory, of which every sandbox pays for its own.
const gcPercent = 30

// Main is sandboxd: it reads the configuration that -config names and runs until SIGTERM or until nobody calls any more. With
// "install" as its first argument it only puts itself where a pod's other container starts it. It must
// be called from func main before anything else is done with signals or processes, with the working directory where the socket
// is to be, and after an init function has called runtime.LockOSThread: only that keeps func main on the main thread, where
// orphans are reaped. It returns the process's exit code.
func Main(args []string, harnesses map[string]harness.Harness) int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if len(args) > 0 && args[0] == checkpointVerb {
		return checkpointChild(args[1:], os.Stdout)
	}
	if done, err := enterNetwork(args); err != nil {
		log.Error("sandboxd cannot be kept to its own network", "err", err)
		return 1
	} else if done {
		return 0
	}
	// Nothing in the sandbox may read this process's memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		log.Error("memory could not be protected", "err", err)
		return 1
	}
	debug.SetGCPercent(gcPercent)
	code, err := reapWhile(func() int {
		if err := run(args, harnesses, log); err != nil {
			log.Error("sandboxd failed", "err", err)
			return 1
		}
		return 0
	})
	if err != nil {
		log.Error("sandboxd failed", "err", err)
		return 1
	}
	return code
}

// flagsOf are the arguments of a sandboxd that runs.
type flagsOf struct {
	config          string
	confined, probe bool
	route, socket   string
	pid             int
}

func parse(args []string) (f flagsOf, err error) {
	flags := flag.NewFlagSet("sandboxd", flag.ContinueOnError)
	flags.StringVar(&f.config, "config", "", "configuration `file`")
	flags.BoolVar(&f.confined, confinedFlag[1:], false, "set by sandboxd itself")
	flags.BoolVar(&f.probe, "probe-network", false, "only try whether a network of its own can be had")
	flags.StringVar(&f.route, "route", "", "only carry connections to `host:port`")
	flags.StringVar(&f.socket, "socket", "", "with -route, from this socket in the working directory")
	flags.IntVar(&f.pid, "pid", 0, "with -route, while this process runs")
	if err := flags.Parse(args); err != nil {
		return f, fmt.Errorf("arguments: %w", err)
	}
	if f.config == "" && !f.probe && f.route == "" {
		return f, errors.New("-config is needed")
	}
	return f, nil
}

// enterNetwork makes sure that a sandboxd that is to have a network of its own has it, and nothing with which to leave it. It is
// done if that was all there was to do.
func enterNetwork(args []string) (done bool, err error) {
	if len(args) > 0 && args[0] == "install" {
		return false, nil
	}
	f, err := parse(args)
	if err != nil {
		return false, err
	}
	var c Config
	if f.config != "" {
		if c, err = readConfig(f.config); err != nil {
			return false, err
		}
	}
	switch {
	case !c.OwnNetwork && !f.probe:
		return false, nil
	case !f.confined:
		return false, confine(args)
	}
	return f.probe, isConfined()
}

func run(args []string, harnesses map[string]harness.Harness, log *slog.Logger) error {
	if len(args) > 0 && args[0] == "install" {
		return install(args[1:])
	}
	f, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if f.route != "" {
		return serveRoute(ctx, f.socket, f.route, f.pid)
	}
	c, err := readConfig(f.config)
	if err != nil {
		return err
	}
	if c.Listen != "" { // it has the network of a pod
		if err := keepToIP(); err != nil {
			log.Error("sockets past the network policies could not be ruled out", "err", err)
		}
	}
	c.self = append([]string{"/proc/self/exe"}, os.Args[1:len(os.Args)-len(args)]...)
	defer killStrays(c.SandboxID, true)
	return Run(ctx, c, harnesses, log)
}
