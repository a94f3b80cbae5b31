package session

import (
	"crypto/ed25519"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	eventsPath = "/v1/events"
	tokenTTL   = 5 * time.Minute
	maxAnswer  = 64 << 10 // bytes of one answer of a sandbox, streams apart

	// clockNoise is less than what a token allows for (sandbox.VerifyToken), clockMost as much as is believed: whoever answers in
	// a sandbox's place gets tokens for a time of its choice.
	clockNoise = 10 * time.Second
	clockMost  = 15 * time.Minute
)

// caller is how one sandbox is called: it signs each request with a token for it, and bounds the answers; what is read as a stream
// its reader bounds. The node of a sandbox may have another time: an answer that refuses a token tells it, and the request is sent
// again with a token for that time.
type caller struct {
	next  *http.Transport
	key   ed25519.PrivateKey
	box   sandbox.ID
	ahead atomic.Int64 // nanoseconds of the sandbox's clock before ours
}

// RoundTrip implements http.RoundTripper.
func (c *caller) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.send(r)
	if err != nil || res.StatusCode != http.StatusUnauthorized || r.Body != nil && r.GetBody == nil || !c.learn(res) {
		return res, err
	}
	again := r.Clone(r.Context())
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return res, nil //nolint:nilerr // the refusal is the answer
		}
	}
	_ = res.Body.Close()
	return c.send(again)
}

// CloseIdleConnections is called by that of http.Client.
func (c *caller) CloseIdleConnections() { c.next.CloseIdleConnections() }

func (c *caller) send(r *http.Request) (*http.Response, error) {
	now := time.Now().Add(time.Duration(c.ahead.Load()))
	r = r.Clone(r.Context())
	r.Header.Set(sandbox.TokenHeader, sandbox.SignToken(c.key, sandbox.Claims{Audience: c.box, IssuedAt: now, Expires: now.Add(tokenTTL)}))
	res, err := c.next.RoundTrip(r)
	if err == nil && r.URL.Path != eventsPath && res.StatusCode != http.StatusSwitchingProtocols {
		most := int64(maxAnswer)
		if r.URL.Path == checkpointPath {
			most = maxCheckpoint
		}
		res.Body = http.MaxBytesReader(nil, res.Body, most)
	}
	return res, err
}

// learn reports whether an answer says that the sandbox has another time than was thought.
func (c *caller) learn(res *http.Response) bool {
	date, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return false
	}
	ahead := max(-clockMost, min(time.Until(date), clockMost))
	before := time.Duration(c.ahead.Swap(int64(ahead)))
	return (ahead - before).Abs() > clockNoise
}
