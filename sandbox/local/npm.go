package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/cpu"
)

// npmPackage is a native program on the npm registry.
type npmPackage struct {
	program   string // what it is called; harnesses may share one
	version   string // as the package's name on the registry has it
	name      string
	file      string // the program's path in the package
	integrity string // of the package file, as npm computes it
}

func (p npmPackage) prefix() string { return p.program + "-" + p.version }

func (p npmPackage) bin() string { return filepath.Join("node_modules", p.name, p.file) }

const (
	opencodeVersion = "1.18.33"
	claudeVersion   = "2.1.330"
	codexVersion    = "0.169.0-linux-x64"
)

var (
	opencodeX64 = npmPackage{
		"opencode", opencodeVersion, "opencode-linux-x64", "bin/opencode",
		"sha512-q/t/3p2CTxOT9y2kvjesb/LZab2+1eqlhhWA02Be6mjTtmYtNBcBsrI5yDo4Fw7ZSPBW2oyMIGMNRqiKQjiAWw==",
	}
	opencodeX64Baseline = npmPackage{ // for processors without AVX2
		"opencode", opencodeVersion, "opencode-linux-x64-baseline", "bin/opencode",
		"sha512-1KQGBiiDDeL/VHHbHkOvvFo8Jr97WT5+C1tear+p7IcDTnXgVHXqIjU4O4jM4mHQzykTP2i884FCnW5LDa+zCA==",
	}
	claudeX64 = npmPackage{
		"claude", claudeVersion, "@anthropic-ai/claude-code-linux-x64", "claude",
		"sha512-9Gn+V7DtJ8M1nztP9CeDVl9g3RtrepI7rOFTyPRRnZe8D6zebIHKmC7OvBauucuAP0X0k85SDN/LPVZyjsGezQ==",
	}
	codexX64 = npmPackage{
		"codex", codexVersion, "@openai/codex", "vendor/x86_64-unknown-linux-musl/bin/codex",
		"sha512-o05NyAOCDygSPRo1yinzxvkRSdmsZyBD9E7mbpmjRanSfM8lypqWtQgEo4XfNkwhuCR2aFu8mlGOsQGFXVbVww==",
	}
)

// managed are the harnesses with a managed installation, by the ids that the public API gives them.
var managed = []string{"opencode", "claude-agent-sdk", "claude-code", "codex"}

// nativePackage returns the package for this machine.
func nativePackage(harness string) (npmPackage, error) {
	switch {
	case !slices.Contains(managed, harness):
		return npmPackage{}, fmt.Errorf("there is no managed installation of %s", harness)
	case runtime.GOARCH != "amd64":
		return npmPackage{}, fmt.Errorf("there is no pinned build of %s for %s/%s", harness, runtime.GOOS, runtime.GOARCH)
	}
	switch harness {
	case "claude-agent-sdk", "claude-code":
		return claudeX64, nil
	case "codex":
		return codexX64, nil
	}
	if !cpu.X86.HasAVX2 {
		return opencodeX64Baseline, nil
	}
	return opencodeX64, nil
}

// fill makes dir a project whose only dependency is the package, and lets npm install it.
func (n *npm) fill(ctx context.Context, p npmPackage, dir string, lock *os.File, progress func(string)) error {
	deps := map[string]string{p.name: p.version}
	project := map[string]any{"name": "lap-harness", "version": "1.0.0", "private": true, "dependencies": deps}
	locked := map[string]any{
		"name": "lap-harness", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
		"packages": map[string]any{
			"":                       map[string]any{"name": "lap-harness", "version": "1.0.0", "dependencies": deps},
			"node_modules/" + p.name: map[string]any{"version": p.version, "integrity": p.integrity},
		},
	}
	if err := writeJSON(filepath.Join(dir, "package.json"), project); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, "package-lock.json"), locked); err != nil {
		return err
	}
	return n.run(ctx, p, dir, lock, progress)
}

// run runs npm. npm inherits the lock: if this process is killed, nobody else installs until npm has ended, too.
func (n *npm) run(ctx context.Context, p npmPackage, dir string, lock *os.File, progress func(string)) error {
	program, err := n.program()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(dir, "npm.log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, program, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, npmEnv(n.env()), out, out
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	progress(fmt.Sprintf("installing %s %s", p.program, p.version))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run npm: %w", err)
	}
	if err := n.await(cmd, p, dir, progress); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("npm: %w%s", err, npmWords(out.Name()))
	}
	return nil
}

// await waits for npm and reports progress until then.
func (n *npm) await(cmd *exec.Cmd, p npmPackage, dir string, progress func(string)) error {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(installPoll)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			progress(fmt.Sprintf("installing %s %s: %d MB so far", p.program, p.version, treeSize(dir)>>20))
		}
	}
}

func (n *npm) env() []string {
	if n.environ != nil {
		return n.environ
	}
	return os.Environ()
}

// program finds npm in the PATH that it will be run with.
func (n *npm) program() (string, error) {
	for _, e := range n.env() {
		path, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if file := filepath.Join(dir, "npm"); filepath.IsAbs(dir) && isProgram(file) {
				return file, nil
			}
		}
	}
	return "", errors.New("npm is not in PATH: install Node.js 20 or newer, which brings it")
}

// npmEnv picks what npm needs to reach its registry; the rest of the server's environment holds secrets.
func npmEnv(environ []string) []string {
	var out []string
	for _, e := range environ {
		key, _, _ := strings.Cut(strings.ToLower(e), "=")
		if strings.HasPrefix(key, "npm_config_") || strings.HasSuffix(key, "_proxy") ||
			slices.Contains([]string{"home", "path", "node_extra_ca_certs", "ssl_cert_file", "ssl_cert_dir"}, key) {
			out = append(out, e)
		}
	}
	return out
}

// npmWords returns what npm gave as the reason of its failure, as the end of a sentence.
func npmWords(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var words, rest []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if said, ok := strings.CutPrefix(line, "npm error"); ok {
			if said = strings.TrimSpace(said); said != "" && !strings.HasPrefix(said, "A complete log") {
				words = append(words, said)
			}
		} else if line != "" {
			rest = append(rest, line)
		}
	}
	if len(words) == 0 {
		words = rest
	}
	if len(words) == 0 {
		return ""
	}
	return ": " + clip(strings.Join(words[max(0, len(words)-6):], "; "))
}

// treeSize adds up the files of a tree that changes meanwhile.
func treeSize(dir string) int64 {
	var size int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil // what has vanished does not count
	})
	return size
}
