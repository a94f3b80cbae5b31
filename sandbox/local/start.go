package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// config is what sandboxd is given, as config.json in its directory. Paths are absolute but for the socket's.
type config struct {
	SandboxID  sandbox.ID `json:"sandbox_id"`
	CallerKey  []byte     `json:"caller_key"`
	Socket     string     `json:"socket"`
	Root       string     `json:"root"` // the session's files: what the sandbox calls /
	StateDir   string     `json:"state_dir"`
	HarnessID  string     `json:"harness_id"`
	HarnessBin string     `json:"harness_bin"`
	IdleExitS  int        `json:"idle_exit_s"`
	OwnNetwork bool       `json:"own_network,omitempty"`
	Route      string     `json:"route,omitempty"`
	RouteSock  string     `json:"route_socket,omitempty"`
}

const idleExitS = 600 // sandboxd ends itself when nobody has called for so long

// passedEnv is all that sandboxd inherits: nothing in it is a secret of the server.
var passedEnv = []string{"PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"}

// sandboxEnv is in the environment of every process of a sandbox: it is how those that left their session are found.
const sandboxEnv = "LAP_SANDBOX_ID"

// start starts sandboxd in a session of its own, with its output in a file, so that it outlives this process.
func (b *box) start(bin string) (*process, error) {
	root, err := b.layout()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(b.dir, configFile)
	c := config{
		SandboxID: b.rec.ID, CallerKey: b.rec.CallerKey, Socket: sockFile, Root: root, StateDir: filepath.Join(b.dir, stateDir),
		HarnessID: b.rec.Harness, HarnessBin: bin, IdleExitS: idleExitS, OwnNetwork: b.r.ownNetwork,
	}
	if b.routed() {
		c.Route, c.RouteSock = b.r.route, filepath.Join(b.dir, routeFile)
	}
	if err := writeJSON(path, c); err != nil {
		return nil, err
	}
	out, err := b.openLog()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	args := append(append([]string{}, b.r.command[1:]...), "-config", path)
	cmd := exec.CommandContext(context.Background(), b.r.command[0], args...) // no end of a context ends it
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, out, out
	cmd.Env = b.env(root)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if b.r.ownNetwork {
		cmd.SysProcAttr = ownNetwork()
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p, err := b.r.openProcess(cmd.Process.Pid)
	if err != nil && !errors.Is(err, ErrClosed) { // what cannot be watched must not run; the next Runtime finds the other
		return nil, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	return p, errors.Join(err, cmd.Process.Release()) // it is waited for through its pidfd
}

func (b *box) openLog() (*os.File, error) {
	return os.OpenFile(filepath.Join(b.dir, logFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

func ignoreExit(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

// layout makes the directories that sandboxd expects and returns the session's.
func (b *box) layout() (string, error) {
	root := b.root()
	for _, dir := range []string{
		root, filepath.Join(root, "workspace"), filepath.Join(root, "workspace", "home"), filepath.Join(root, "tmp"),
		filepath.Join(root, "data"), filepath.Join(b.dir, stateDir),
	} {
		if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
			return "", fmt.Errorf("make directory: %w", err)
		}
	}
	return root, nil
}

func (b *box) root() string { return filepath.Join(b.r.sessions, b.rec.SessionID) }

func (b *box) env(root string) []string {
	env := []string{sandboxEnv + "=" + string(b.rec.ID), "HOME=" + filepath.Join(root, "workspace", "home")}
	for _, key := range passedEnv {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}
