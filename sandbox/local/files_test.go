package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

func openRuntime(t *testing.T) *Runtime {
	t.Helper()
	r, err := New(Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestTreeOfReadOnlyDirectoriesIsRemovedAndLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	tree := filepath.Join(dir, "base", "tree")
	deep := filepath.Join(tree, "pkg", "mod", "cache")
	for _, d := range []string{outside, deep} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(outside, "kept"), filepath.Join(deep, "file")} {
		if err := os.WriteFile(f, nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(deep, "link")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{deep, filepath.Dir(deep), tree, outside} {
		if err := os.Chmod(d, 0o500); err != nil {
			t.Fatal(err)
		}
	}
	if err := asOrdinaryUser(func() error { return removeTree(filepath.Join(dir, "base"), "tree") }); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree: %v", err)
	}
	info, err := os.Stat(outside)
	if err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("a directory behind a link: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Errorf("a file behind a link: %v", err)
	}
	if err := os.Chmod(outside, 0o700); err != nil {
		t.Fatal(err)
	}
}

// asOrdinaryUser runs fn on a thread that has no capability, so that permissions count for root as well.
func asOrdinaryUser(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, (*unix.CapUserData)(unsafe.Pointer(&none[0]))); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func TestSettingsThatWereBeingWrittenWhenTheServerDiedAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left := filepath.Join(dir, "settings", tempPrefix+"123")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte(`{"SECRET":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := New(Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestSettingsOfUnknownFormAreAnErrorThatDoesNotShowThem(t *testing.T) {
	t.Parallel()
	r := openRuntime(t)
	id := sandboxtest.NewID()
	if err := os.WriteFile(filepath.Join(r.settings.dir, id+".json"), []byte(`{"A":canary}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := r.Settings().Get(context.Background(), id)
	if err == nil || errors.Is(err, sandbox.ErrNotFound) || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
}

func TestLogThatHasGrownTooLongIsCutToWholeLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	line := []byte(strings.Repeat("x", 1023) + "\n")
	if err := os.WriteFile(path, append(bytes.Repeat(line, logMax/len(line)), "last\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := trimLog(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) > logKept+100 || len(text) < logKept-2000 {
		t.Fatalf("%d bytes are left, %v", len(text), err)
	}
	if !bytes.HasPrefix(text, []byte("(older lines were removed)\n"+string(line))) || !bytes.HasSuffix(text, []byte("x\nlast\n")) {
		t.Errorf("it begins %q and ends %q", text[:60], text[len(text)-20:])
	}
}

func TestReadingFollowsALogThatIsCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := openRuntime(t)
	b := newBox(r, record{ID: "x"})
	b.dir = dir
	r.mu.Lock()
	r.boxes["x"] = b
	r.mu.Unlock()
	log, err := r.Logs(t.Context(), "x", sandbox.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	buf := make([]byte, 100)
	if n, err := log.Read(buf); err != nil || string(buf[:n]) != "old\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if err := os.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := log.Read(buf); err != nil || string(buf[:n]) != "new" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestTextOfASandboxIsOneBoundedLine(t *testing.T) {
	t.Parallel()
	if got := clip(" a\n\tb\x00\xff c\x1b "); got != "a b ? c" {
		t.Errorf("got %q", got)
	}
	if got := []rune(clip(strings.Repeat("ü", 5000))); len(got) != maxReason+1 {
		t.Errorf("%d characters", len(got))
	}
}
