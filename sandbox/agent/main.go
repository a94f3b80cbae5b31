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

// Main is sandboxd: it reads the configuration that -config names and runs until SIGTERM or until nobody calls any more. It must
// be called from func main before anything else is done with signals or processes, with the working directory where the socket
// is to be, and after an init function has called runtime.LockOSThread: only that keeps func main on the main thread, where
// orphans are reaped. It returns the process's exit code.
func Main(args []string, harnesses map[string]harness.Harness) int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
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

func run(args []string, harnesses map[string]harness.Harness, log *slog.Logger) error {
	flags := flag.NewFlagSet("sandboxd", flag.ContinueOnError)
	path := flags.String("config", "", "configuration `file`")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if *path == "" {
		return errors.New("-config is needed")
	}
	c, err := readConfig(*path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	defer killStrays(c.SandboxID, true)
	return Run(ctx, c, harnesses, log)
}
