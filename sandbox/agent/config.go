// Package agent is sandboxd, the daemon in every sandbox: it prepares the workspace, starts and supervises the harness, runs
// turns and keeps the numbered event log of one attempt. It owns everything inside the sandbox; it must not know the platform,
// its database or what a session means to it, and it never calls out: callers come to it, each with a token. One goroutine
// drives a session from its binding to its end, one records what the harness says; HTTP handlers only hand over to them.
package agent

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Config is what a sandbox is started with. It holds no secret: CallerKey only verifies.
type Config struct {
	SandboxID   string            `json:"sandbox_id"`
	CallerKey   ed25519.PublicKey `json:"caller_key"`  // base64 in JSON
	Socket      string            `json:"socket"`      // file name of the unix socket, in Dir; empty: none
	Listen      string            `json:"listen"`      // TCP address; empty: none
	Root        string            `json:"root"`        // the sandbox's "/": workspace, tmp and data are below it
	StateDir    string            `json:"state_dir"`   // sandboxd's own files: the event log and the harness's configuration
	HarnessID   string            `json:"harness_id"`  // the only harness this sandbox can run; empty: any
	HarnessBin  string            `json:"harness_bin"` // path of the harness's program
	IdleExitS   int               `json:"idle_exit_s"` // ends itself after so long without an authenticated call; 0: never
	OwnNetwork  bool              `json:"own_network"` // the process has a network of its own, in which nothing but itself listens
	Route       string            `json:"route"`       // host:port that RouteSocket leads to, whatever the platform does; empty: none
	RouteSocket string            `json:"route_socket"`
	Dir         string            `json:"-"` // where lock, pid.json, exit.json and the socket are; empty: working directory
	abortWithin time.Duration     // for a harness that does not obey; zero: 15 s
	self        []string          // starts this program again, with other arguments behind
}

func (c Config) id() sandbox.ID { return sandbox.ID(c.SandboxID) }

func (c Config) idleExit() time.Duration { return time.Duration(c.IdleExitS) * time.Second }

func (c Config) validate() error {
	var errs []error
	if c.SandboxID == "" {
		errs = append(errs, errors.New("sandbox_id is empty"))
	}
	if len(c.CallerKey) != ed25519.PublicKeySize {
		errs = append(errs, errors.New("caller_key is not an Ed25519 public key"))
	}
	if (c.Socket == "") == (c.Listen == "") {
		errs = append(errs, errors.New("exactly one of socket and listen is needed"))
	}
	if c.Socket != "" && c.Socket != filepath.Base(c.Socket) {
		errs = append(errs, errors.New("socket is not a plain file name"))
	}
	if !filepath.IsAbs(c.Root) || !filepath.IsAbs(c.StateDir) {
		errs = append(errs, errors.New("root and state_dir must be absolute"))
	}
	if c.IdleExitS < 0 {
		errs = append(errs, errors.New("idle_exit_s is negative"))
	}
	return errors.Join(errs...)
}

func readConfig(path string) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return c, nil
}
