package kubetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

const buildCommand = "go tool task kube:build"

// moduleDir is the directory of the module that is tested.
func moduleDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Built returns a directory with programs, by their packages, built of the module in pins: once for each state of it.
func Built(pins string, programs map[string]string) (dir string, err error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	files := []string{"go.mod", "go.sum"}
	more, err := filepath.Glob(filepath.Join(pins, "*", "*.go"))
	if err != nil {
		return "", err
	}
	for _, path := range more {
		name, err := filepath.Rel(pins, path)
		if err != nil {
			return "", err
		}
		files = append(files, name)
	}
	slices.Sort(files)
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(pins, name))
		if err != nil {
			return "", fmt.Errorf("read what pins the programs of the tests: %w", err)
		}
		_, _ = sum.Write(text)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(cache, "lap-controlplane", fmt.Sprintf("%x", sum.Sum(nil)[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	for name, pkg := range programs {
		if err := buildOnce(pins, filepath.Join(dir, name), pkg); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func buildOnce(pins, path, pkg string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "building %s for the tests; the first time takes minutes, %q does it beforehand\n", filepath.Base(path), buildCommand)
	if err := goBuild(pins, path+".new", pkg); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// goBuild builds with the flags that tests are built with, so that both share Go's cache.
func goBuild(dir, path, pkg string) error {
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s; try %q", pkg, err, out, buildCommand)
	}
	return nil
}
