package agent

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// install is what an init container of a pod does: it copies this program, and the configuration to start it with, into the
// directory that the harness's container shares. So any image with a harness in it can be a sandbox, and sandboxd has the version
// of the platform that made the pod.
func install(args []string) error {
	flags := flag.NewFlagSet("install", flag.ContinueOnError)
	dir := flags.String("to", "", "`directory`")
	config := flags.String("config", "", "configuration, as JSON; nothing in it is secret")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if *dir == "" || *config == "" {
		return errors.New("install: -to and -config are needed")
	}
	if err := copyProgram(filepath.Join(*dir, "sandboxd")); err != nil {
		return fmt.Errorf("install sandboxd: %w", err)
	}
	path := filepath.Join(*dir, "config.json")
	if err := os.WriteFile(path, []byte(*config), 0o600); err != nil {
		return fmt.Errorf("install sandboxd: %w", err)
	}
	if _, err := readConfig(path); err != nil {
		return fmt.Errorf("install sandboxd: %w", err)
	}
	return nil
}

func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	// An init container runs again if its node was restarted in the middle.
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Chmod(0o755), f.Close())
}
