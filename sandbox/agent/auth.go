package agent

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// maxTokens bounds how many verified tokens are remembered.
const maxTokens = 256

// gate lets only callers with a valid token through, and knows when the last one was here. Safe for concurrent use.
type gate struct {
	c Config

	mu       sync.Mutex // guards the fields below
	verified map[[sha256.Size]byte]time.Time
	inside   int
	last     time.Time
}

func newGate(c Config) *gate {
	return &gate{c: c, verified: map[[sha256.Size]byte]time.Time{}, last: time.Now()}
}

// wrap refuses before anything else of a request is looked at.
func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := g.admit(r.Header.Values(sandbox.TokenHeader), time.Now()); err != nil {
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusUnauthorized, "a valid "+sandbox.TokenHeader+" is needed")
			return
		}
		g.enter()
		defer g.leave()
		next.ServeHTTP(w, r)
	})
}

func (g *gate) admit(tokens []string, now time.Time) error {
	if len(tokens) != 1 {
		return sandbox.ErrToken
	}
	sum := sha256.Sum256([]byte(tokens[0]))
	g.mu.Lock()
	expires, known := g.verified[sum]
	g.mu.Unlock()
	if known && now.Before(expires) {
		return nil
	}
	claims, err := sandbox.OpenToken(g.c.CallerKey, tokens[0], g.c.id(), now)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.verified) >= maxTokens {
		clear(g.verified)
	}
	g.verified[sum] = claims.Expires
	return nil
}

func (g *gate) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside++
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.last = time.Now()
}

// quiet returns for how long no authenticated caller has been here.
func (g *gate) quiet() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside > 0 {
		return 0
	}
	return time.Since(g.last)
}
