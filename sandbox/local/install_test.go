package local

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

// fakeNPM puts a shell script named npm first in the PATH of an npm. It runs where npm would, and $CALLS is a file for it.
func fakeNPM(t *testing.T, dir, script string) *npm {
	t.Helper()
	bin := t.TempDir()
	calls := filepath.Join(bin, "calls")
	script = "#!/bin/sh\nCALLS='" + calls + "'\necho \"$@\" >> \"$CALLS\"\n" + script
	syscall.ForkLock.RLock() // a child forked meanwhile would hold the program open, and so busy
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &npm{dir: dir, environ: []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + bin, "SECRET=canary", "npm_config_registry=r"}}
}

func (n *npm) calls(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.home(), "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (n *npm) home() string { return strings.TrimPrefix(n.environ[1], "HOME=") }

const makesProgram = `
name=$(sed 's/.*"dependencies":{"\([^"]*\)".*/\1/' package.json)
mkdir -p "node_modules/$name/bin"
echo '#!/bin/sh' > "node_modules/$name/bin/opencode"
chmod 755 "node_modules/$name/bin/opencode"
`

func quiet(string) {}

func TestInstallationsAtTheSameTimeRunNPMOnce(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, filepath.Join(t.TempDir(), "harnesses"), "sleep 0.2"+makesProgram)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards waited
	waited := 0
	for range 4 {
		wg.Go(func() {
			bin, err := n.Install(t.Context(), "opencode", func(s string) {
				mu.Lock()
				defer mu.Unlock()
				if strings.HasPrefix(s, "waiting for another installation of opencode 1.") {
					waited++
				}
			})
			if err != nil || !isProgram(bin) || !filepath.IsAbs(bin) {
				t.Errorf("got %q, %v", bin, err)
			}
		})
	}
	wg.Wait()
	if calls := n.calls(t); calls != "ci --ignore-scripts --no-audit --no-fund --no-update-notifier\n" {
		t.Errorf("npm was run so: %q", calls)
	}
	if waited != 3 {
		t.Errorf("%d of 3 said that they wait", waited)
	}
	if left, _ := filepath.Glob(filepath.Join(n.dir, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInstallationIsPinnedAndGetsNoSecret(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), `env > "$HOME/env"`+makesProgram)
	bin, err := n.Install(t.Context(), "opencode", quiet)
	if err != nil {
		t.Fatal(err)
	}
	p, err := nativePackage("opencode")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(n.dir, "opencode-"+p.version, "node_modules", p.name, "bin", "opencode"); bin != want {
		t.Errorf("the program is %s, want %s", bin, want)
	}
	var lock struct {
		LockfileVersion int `json:"lockfileVersion"`
		Packages        map[string]struct{ Version, Integrity, Resolved string }
	}
	if err := readJSON(filepath.Join(n.dir, p.prefix(), "package-lock.json"), &lock); err != nil {
		t.Fatal(err)
	}
	got := lock.Packages["node_modules/"+p.name]
	if lock.LockfileVersion != 3 || got.Version != "1.18.33" || !strings.HasPrefix(got.Integrity, "sha512-") || got.Resolved != "" {
		t.Errorf("got %+v", lock)
	}
	env, err := os.ReadFile(filepath.Join(n.home(), "env"))
	if err != nil || strings.Contains(string(env), "canary") || !strings.Contains(string(env), "npm_config_registry=r") {
		t.Errorf("npm's environment: %s, %v", env, err)
	}
}

func TestHarnessesThatShareAProgramShareItsInstallation(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), `
program() { mkdir -p "node_modules/$(dirname "$1")"; echo '#!/bin/sh' > "node_modules/$1"; chmod 755 "node_modules/$1"; }
program opencode-linux-x64/bin/opencode
program opencode-linux-x64-baseline/bin/opencode
program @anthropic-ai/claude-code-linux-x64/claude
program @openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex`)
	programs := map[string]string{}
	for _, harness := range n.Harnesses() {
		bin, err := n.Install(t.Context(), harness, quiet)
		if err != nil {
			t.Fatalf("%s: %v", harness, err)
		}
		programs[harness] = filepath.Base(bin)
		p, err := nativePackage(harness)
		if err != nil {
			t.Fatal(err)
		}
		lock, err := os.ReadFile(filepath.Join(n.dir, p.prefix(), "package-lock.json"))
		if err != nil || !strings.Contains(string(lock), p.integrity) || len(p.integrity) != len("sha512-")+88 {
			t.Errorf("%s: %s, %v", harness, lock, err)
		}
	}
	want := map[string]string{"opencode": "opencode", "claude-agent-sdk": "claude", "claude-code": "claude", "codex": "codex"}
	if !maps.Equal(programs, want) || strings.Count(n.calls(t), "ci ") != 3 {
		t.Errorf("installed %v by %q", programs, n.calls(t))
	}
}

func TestInstallationThatWasKilledIsDoneAgain(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), makesProgram)
	left := filepath.Join(n.dir, tempPrefix+"opencode-"+opencodeVersion+"-123", "node_modules")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	incomplete := filepath.Join(n.dir, "opencode-"+opencodeVersion, "node_modules", "other")
	if err := os.MkdirAll(incomplete, 0o700); err != nil {
		t.Fatal(err)
	}
	bin, err := n.Install(t.Context(), "opencode", quiet)
	if err != nil || !isProgram(bin) {
		t.Fatalf("got %q, %v", bin, err)
	}
	for _, path := range []string{left, incomplete} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestInstallationWaitsForAnNPMThatOutlivedItsServer(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), makesProgram)
	lock, err := os.OpenFile(filepath.Join(n.dir, ".opencode-"+opencodeVersion+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		_, err := n.Install(t.Context(), "opencode", func(s string) {
			if strings.HasPrefix(s, "waiting") {
				waits <- struct{}{}
			}
		})
		done <- err
	}()
	<-waits
	if _, err := os.Stat(filepath.Join(n.home(), "calls")); !errors.Is(err, os.ErrNotExist) {
		t.Error("npm was run")
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestNPMHoldsTheLockOfItsInstallation(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), `
if flock -n -x "`+"$PWD/../.opencode-"+opencodeVersion+`.lock" true; then echo "npm error not locked"; exit 1; fi
[ -e /proc/self/fd/3 ] || exit 1`+makesProgram)
	if _, err := n.Install(t.Context(), "opencode", quiet); err != nil {
		t.Fatal(err)
	}
}

func TestInstallationThatFailsSaysWhatNPMSaid(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ script, want string }{
		"npm's own errors": {
			"echo noise; echo 'npm error code EINTEGRITY' >&2; echo 'npm error' >&2; echo 'npm error sha512-x is not sha512-y' >&2;" +
				"echo 'npm error A complete log of this run can be found in: /root/x.log' >&2; exit 7",
			"npm: exit status 7: code EINTEGRITY; sha512-x is not sha512-y",
		},
		"other words": {"echo 'node: cannot execute' >&2; exit 126", "npm: exit status 126: node: cannot execute"},
		"no words":    {"exit 1", "npm: exit status 1"},
		"no program":  {"exit 0", "holds no program"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := fakeNPM(t, t.TempDir(), tt.script)
			_, err := n.Install(t.Context(), "opencode", quiet)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "complete log") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if left, _ := filepath.Glob(filepath.Join(n.dir, tempPrefix+"*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestInstallationWithoutNPMSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	n := &npm{dir: t.TempDir(), environ: []string{"PATH=" + t.TempDir()}}
	if _, err := n.Install(t.Context(), "opencode", quiet); err == nil || !strings.Contains(err.Error(), "install Node.js") {
		t.Errorf("got %v", err)
	}
	if _, err := n.Install(t.Context(), "pi", quiet); err == nil || !strings.Contains(err.Error(), "no managed installation of pi") {
		t.Errorf("got %v", err)
	}
}

func TestInstallationThatIsBrokenOffEndsNPMWithItsChildren(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), "sleep 600 & echo $! > \"$HOME/child\"; mv \"$HOME/child\" \"$HOME/pid\"; wait")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := n.Install(ctx, "opencode", quiet)
		done <- err
	}()
	var pid string
	sandboxtest.Eventually(t, "npm runs", func() error {
		b, err := os.ReadFile(filepath.Join(n.home(), "pid"))
		pid = strings.TrimSpace(string(b))
		return err
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	sandboxtest.Eventually(t, "npm's child is gone", func() error {
		cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err == nil && len(cmdline) > 0 {
			return errors.New("it runs")
		}
		return nil
	})
	if left, _ := filepath.Glob(filepath.Join(n.dir, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInstallationReportsHowFarItIs(t *testing.T) {
	t.Parallel()
	n := fakeNPM(t, t.TempDir(), `head -c 3200000 /dev/zero > blob; until [ -e "$HOME/go" ]; do sleep 0.02; done`+makesProgram)
	deadline := time.AfterFunc(20*time.Second, func() { _ = os.WriteFile(filepath.Join(n.home(), "go"), nil, 0o600) })
	defer deadline.Stop()
	var said []string
	_, err := n.Install(t.Context(), "opencode", func(s string) {
		said = append(said, s)
		if strings.HasSuffix(s, ": 3 MB so far") {
			if err := os.WriteFile(filepath.Join(n.home(), "go"), nil, 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil || len(said) < 2 || said[0] != "installing opencode 1.18.33" || said[len(said)-1] != "installing opencode 1.18.33: 3 MB so far" {
		t.Errorf("said %q, %v", said, err)
	}
}
