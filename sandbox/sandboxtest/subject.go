// Package sandboxtest is the conformance suite of sandbox.Runtime and sandbox.Settings: what every implementation must do, seen
// from outside. It owns the cases and must know no implementation; what only an implementation can do for a case is in Subject.
// Its cases run in parallel, each on a Subject of its own.
package sandboxtest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Subject is a runtime under test. Its sandboxes run a sandboxd, real or not, that serves GET /v1/health to callers with a valid
// token, writes at least one line to its log, and ends on SIGTERM.
type Subject interface {
	Runtime() sandbox.Runtime
	Settings() sandbox.Settings
	// Harness is a harness id that the runtime accepts.
	Harness() string
	// Close closes the runtime, which leaves the sandboxes alone. It is idempotent.
	Close()
	// Reopen closes the runtime and makes another one on the same data.
	Reopen(t *testing.T)
	// Kill ends sandboxd of a running sandbox with SIGKILL.
	Kill(t *testing.T, id sandbox.ID)
	// Spawn makes a running sandbox start a process that has nothing to do with sandboxd's session or process group.
	Spawn(t *testing.T, id sandbox.ID)
	// Processes counts the processes of a sandbox that run, sandboxd included.
	Processes(t *testing.T, id sandbox.ID) int
	// WriteFile and ReadFile reach the session's workspace; reading what is not there is fs.ErrNotExist.
	WriteFile(t *testing.T, sessionID, name, text string)
	ReadFile(sessionID, name string) (string, error)
}

const patience = 20 * time.Second // for what happens soon on an idle machine

// bench is a Subject with what every case needs.
type bench struct {
	Subject
	t   *testing.T
	key ed25519.PrivateKey
}

func newBench(t *testing.T, open func(t *testing.T) Subject) *bench {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Subject: open(t), t: t, key: key}
}

// NewID returns a random id, of a sandbox or of a session.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

func (b *bench) spec() sandbox.Spec {
	return sandbox.Spec{
		ID: sandbox.ID(NewID()), SessionID: NewID(), Harness: b.Harness(), CallerKey: b.key.Public().(ed25519.PublicKey),
	}
}

func (b *bench) create(spec sandbox.Spec) {
	b.t.Helper()
	if err := b.Runtime().Create(b.t.Context(), spec); err != nil {
		b.t.Fatal(err)
	}
}

// running makes a sandbox and waits until it runs.
func (b *bench) running() sandbox.Spec {
	b.t.Helper()
	spec := b.spec()
	b.create(spec)
	b.reaches(spec.ID, sandbox.Running)
	return spec
}

func (b *bench) reaches(id sandbox.ID, want sandbox.State) sandbox.Status {
	b.t.Helper()
	var last sandbox.Status
	Eventually(b.t, fmt.Sprintf("sandbox is %s", want), func() error {
		var err error
		if last, err = b.Runtime().Get(b.t.Context(), id); err != nil {
			return err
		}
		if last.State != want {
			return fmt.Errorf("it is %+v", last)
		}
		return nil
	})
	return last
}

func (b *bench) delete(id sandbox.ID) {
	b.t.Helper()
	if err := b.Runtime().Delete(b.t.Context(), id); err != nil {
		b.t.Fatal(err)
	}
}

// isGone fails unless nothing is left of a sandbox, right now.
func (b *bench) isGone(id sandbox.ID) {
	b.t.Helper()
	if s, err := b.Runtime().Get(b.t.Context(), id); !errors.Is(err, sandbox.ErrNotFound) {
		b.t.Errorf("Get of a deleted sandbox: %+v, %v", s, err)
	}
	if n := b.Processes(b.t, id); n != 0 {
		b.t.Errorf("%d processes of a deleted sandbox run", n)
	}
	if ids := b.list(); ids[id].ID != "" {
		b.t.Errorf("a deleted sandbox is listed: %+v", ids[id])
	}
}

func (b *bench) list() map[sandbox.ID]sandbox.Status {
	b.t.Helper()
	all, err := b.Runtime().List(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[sandbox.ID]sandbox.Status{}
	for _, s := range all {
		out[s.ID] = s
	}
	return out
}

// health asks the sandbox behind id who it is, with a token for aud.
func (b *bench) health(id, aud sandbox.ID) (sandbox.ID, error) {
	now := time.Now()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sandbox/v1/health", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Header.Set(sandbox.TokenHeader, sandbox.SignToken(b.key, sandbox.Claims{
		Audience: aud, IssuedAt: now, Expires: now.Add(time.Minute),
	}))
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.Runtime().Dial(ctx, id)
		},
	}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	var h struct {
		SandboxID sandbox.ID `json:"sandbox_id"`
	}
	return h.SandboxID, json.Unmarshal(body, &h)
}

func (b *bench) isHealthy(id sandbox.ID) {
	b.t.Helper()
	if got, err := b.health(id, id); err != nil || got != id {
		b.t.Errorf("health of %s: %q, %v", id, got, err)
	}
}

// Eventually waits until check returns nil, and fails with its last error if that takes too long.
func Eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s: %v", what, err)
		}
	}
}
