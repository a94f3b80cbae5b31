package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Installer provides the programs of harnesses.
type Installer interface {
	// Harnesses lists the harness ids it can install.
	Harnesses() []string
	// Install returns the absolute path of a harness's program, installing it first if need be. It reports progress in sentences.
	// An error names the culprit in one sentence. Several calls, also of several processes, install it once.
	Install(ctx context.Context, harness string, progress func(string)) (bin string, err error)
}

// npm installs the native packages of harnesses, pinned by version and digest, each into a directory of its own that appears in
// one step and is never changed.
type npm struct {
	dir     string
	environ []string // of the server; only what npm needs of it is passed on
}

// NPM returns the installer of pinned npm packages, which keeps them below dir.
func NPM(dir string) Installer { return &npm{dir: dir} }

const (
	installPoll = 500 * time.Millisecond // between reports of progress
	lockPoll    = 50 * time.Millisecond  // while another installation runs
)

func (n *npm) Harnesses() []string { return slices.Clone(managed) }

func (n *npm) Install(ctx context.Context, harness string, progress func(string)) (string, error) {
	p, err := nativePackage(harness)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(n.dir, p.prefix(), p.bin())
	if isProgram(bin) {
		return bin, nil
	}
	if err := makePrivate(n.dir); err != nil {
		return "", err
	}
	lock, err := n.lock(ctx, p, progress)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if isProgram(bin) {
		return bin, nil
	}
	if err := n.install(ctx, p, lock, progress); err != nil {
		return "", err
	}
	return bin, nil
}

// lock waits until no other installation of the package runs, here or in another process.
func (n *npm) lock(ctx context.Context, p npmPackage, progress func(string)) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(n.dir, "."+p.prefix()+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", n.dir, errors.Join(err, f.Close()))
		}
		if !told {
			progress(fmt.Sprintf("waiting for another installation of %s %s", p.program, p.version))
		}
		if !pause(ctx, lockPoll) {
			return nil, errors.Join(ctx.Err(), f.Close())
		}
	}
}

// install does it in a directory beside the final one. The caller holds the lock.
func (n *npm) install(ctx context.Context, p npmPackage, lock *os.File, progress func(string)) error {
	if err := n.removeLeft(p); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(n.dir, tempPrefix+p.prefix()+"-")
	if err != nil {
		return err
	}
	err = n.fill(ctx, p, tmp, lock, progress)
	if err == nil {
		err = n.publish(p, tmp)
	}
	if err != nil {
		return errors.Join(err, removeTree(n.dir, filepath.Base(tmp)))
	}
	return nil
}

// removeLeft removes what installations left that were killed.
func (n *npm) removeLeft(p npmPackage) error {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix+p.prefix()+"-") {
			continue
		}
		if err := removeTree(n.dir, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// publish makes a complete installation the one that counts, also if the power fails right after.
func (n *npm) publish(p npmPackage, tmp string) error {
	if !isProgram(filepath.Join(tmp, p.bin())) {
		return fmt.Errorf("package %s %s holds no program %s", p.name, p.version, p.bin())
	}
	d, err := os.Open(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", tmp, err)
	}
	if err := removeTree(n.dir, p.prefix()); err != nil { // it lacks the program for this processor
		return err
	}
	if err := os.Rename(tmp, filepath.Join(n.dir, p.prefix())); err != nil {
		return err
	}
	return syncDir(n.dir)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o100 != 0
}
