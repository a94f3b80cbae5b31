package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/local"
)

const placePrefix = "lap-chaos-run-"

// newPlace makes the directory of a run, and removes what runs that were killed have left.
func newPlace() (string, error) {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), placePrefix+"*"))
	for _, dir := range old {
		var pid int
		if _, scanErr := fmt.Sscanf(filepath.Base(dir), placePrefix+"%d-", &pid); scanErr == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			err = errors.Join(err, tidy(dir))
		}
	}
	if err != nil {
		return "", fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return os.MkdirTemp("", fmt.Sprintf("%s%d-", placePrefix, os.Getpid()))
}

func tidy(dir string) error {
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); err == nil {
		if err := stopSandboxes(data); err != nil {
			return err
		}
		_ = unix.Unmount(data, unix.MNT_DETACH) // it may be no file system of its own
	}
	return os.RemoveAll(dir)
}

// stopSandboxes ends every sandbox of a data directory that no server uses any more.
func stopSandboxes(data string) error {
	rt, err := local.New(local.Options{DataDir: data})
	if err != nil {
		return err
	}
	defer rt.Close()
	return rt.StopAll(context.Background())
}

// mount makes the data directory a small file system of its own, so that it can be full. It takes the rights of root.
func (w *world) mount() bool {
	if err := unix.Mount("lap-chaos", w.data, "tmpfs", 0, "size=1g,mode=0700"); err != nil {
		return false
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(w.data, unix.MNT_DETACH); err != nil {
			w.t.Errorf("unmount %s: %v", w.data, err)
		}
	})
	return true
}

// end leaves nothing running, whatever happened.
func (w *world) end() {
	for _, s := range append(slices.Clone(w.subjects), w.dropped...) {
		s.unsubscribe()
	}
	w.srv.kill(unix.SIGKILL)
	if err := stopSandboxes(w.data); err != nil {
		w.t.Error(err)
	}
	logs, _ := filepath.Glob(filepath.Join(w.data, "sandboxes", "*", "log"))
	for _, path := range logs {
		text, _ := os.ReadFile(path)
		_ = os.WriteFile(filepath.Join(w.dir, "sandboxd-"+filepath.Base(filepath.Dir(path))+".log"), text, 0o600)
	}
}
