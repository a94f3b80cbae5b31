package session

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/gateway"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	callTimeout  = 30 * time.Second
	silenceMax   = 45 * time.Second // a stream without a record or heartbeat for so long is broken
	maxRecord    = 4 << 20
	recordBuffer = 1024
	groupMax     = 256 // records committed together
)

// link is the conversation with one sandbox: it binds it, follows its event log into the store, and hands turns over. Its one
// goroutine (with two below it while connected) goes on until it is cancelled; a broken connection is made anew.
type link struct {
	r       *reconciler
	session string
	attempt int32
	box     sandbox.ID
	http    *http.Client
	api     *sandboxd.ClientWithResponses
	model   string        // set before the first turn
	wake    chan struct{} // buffered 1: there is news, or a turn has ended
	news    atomic.Bool   // a turn may be waiting, or shall end
	settled chan struct{} // buffered 1: a turn has ended, or the harness is ready
	slot    atomic.Pointer[slot]
	cancel  context.CancelFunc
	done    chan struct{}
}

// poke tells that a turn may be waiting, or shall end.
func (l *link) poke() {
	l.news.Store(true)
	signal(l.wake)
}

func publicKey(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// linkOf returns the link to the session's current sandbox, nil if there is none.
func (c *Controller) linkOf(s store.Session) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.links[s.ID]; l != nil && l.box == sandbox.ID(s.SandboxID) {
		return l
	}
	return nil
}

// pokeLink tells the link of a session, if there is one, that a turn may be waiting, or shall end.
func (c *Controller) pokeLink(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.links[id]; l != nil {
		l.poke()
	}
}

// link returns the link to the session's sandbox, a new one if need be.
func (c *Controller) link(ctx context.Context, r *reconciler, s store.Session) *link {
	if l := c.linkOf(s); l != nil {
		return l
	}
	c.unlink(s.ID)
	_, key, err := callerKey(c.o.Keyring, s.KeyID)
	if err != nil {
		c.o.Logger.Error("no key for sandbox", "session_id", s.ID, "err", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &link{
		r: r, session: s.ID, attempt: s.Attempt, box: sandbox.ID(s.SandboxID),
		wake: make(chan struct{}, 1), settled: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}),
	}
	l.http, l.api = c.speak(l.box, key)
	c.mu.Lock()
	c.links[s.ID] = l
	c.mu.Unlock()
	go l.run(ctx)
	return l
}

// speak returns a client of a sandbox.
func (c *Controller) speak(box sandbox.ID, key ed25519.PrivateKey) (*http.Client, *sandboxd.ClientWithResponses) {
	client := &http.Client{Transport: &caller{key: key, box: box, next: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.o.Runtime.Dial(ctx, box) },
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        time.Minute,
		ResponseHeaderTimeout:  callTimeout,
		MaxResponseHeaderBytes: maxAnswer,
	}}}
	// The error is for an ill-formed address only.
	api, _ := sandboxd.NewClientWithResponses("http://sandbox", sandboxd.WithHTTPClient(client))
	return client, api
}

// unlink ends the link of a session, if there is one, and waits for it.
func (c *Controller) unlink(id string) {
	c.mu.Lock()
	l := c.links[id]
	delete(c.links, id)
	c.mu.Unlock()
	if l != nil {
		l.cancel()
		<-l.done
	}
}

// cut is unlink for a session whose attempt is over: its way out closes, with every connection.
func (c *Controller) cut(id string) {
	c.unlink(id)
	c.o.Egress.end(id)
}

func (l *link) run(ctx context.Context) {
	defer close(l.done)
	defer l.http.CloseIdleConnections()
	lastSeen, wait := time.Now(), 50*time.Millisecond
	for ctx.Err() == nil {
		connected, err := l.converse(ctx)
		if connected {
			lastSeen, wait = time.Now(), 50*time.Millisecond
		}
		var g *gone
		if errors.As(err, &g) || time.Since(lastSeen) > unreachableMax {
			l.giveUp(ctx, err)
			return
		}
		if ctx.Err() == nil {
			l.r.c.o.Logger.Debug("connection to sandbox ended", "session_id", l.session, "sandbox_id", l.box, "err", err)
		}
		l.r.q.Add(l.session) // it may have exited
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		}
	}
}

// gone is an error after which the sandbox cannot serve the session any more.
type gone struct{ reason string }

func (g *gone) Error() string { return g.reason }

func (l *link) giveUp(ctx context.Context, cause error) {
	reason := "its sandbox does not answer"
	var g *gone
	if errors.As(cause, &g) {
		reason = g.reason
	}
	for ctx.Err() == nil {
		err := l.observe(ctx, func(tx *store.SessionTx) error { return endLost(tx, reason) })
		if err == nil || errors.Is(err, errStale) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// observe changes the session if it is live and this sandbox still serves it, and will go on to.
func (l *link) observe(ctx context.Context, fn func(*store.SessionTx) error) error {
	return l.r.c.o.Store.Observe(ctx, l.r.lease, l.session, func(tx *store.SessionTx) error {
		if tx.Session.SandboxID != string(l.box) || tx.Session.Attempt != l.attempt || !live(tx.Session.Status) ||
			tx.Session.Desired == wantSuspended {
			return errStale
		}
		return fn(tx)
	})
}

// converse speaks to sandboxd until the connection breaks. It reports whether sandboxd answered at all.
func (l *link) converse(ctx context.Context) (bool, error) {
	sess, err := l.r.c.o.Store.GetSession(ctx, l.session)
	if err != nil {
		return true, err // no fault of the sandbox
	}
	agent, err := l.r.c.o.Store.GetAgentVersion(ctx, sess.AgentID, sess.AgentVersion)
	if err != nil {
		return true, err
	}
	l.model = agent.Model
	if err := l.bind(ctx, sess, agent); err != nil {
		return false, err
	}
	g, ctx := errgroup.WithContext(ctx)
	own := newSlot()
	l.slot.Store(own)
	defer l.slot.Store(nil)
	records := make(chan sandboxd.Record, recordBuffer)
	g.Go(func() error { defer close(records); return l.tail(ctx, sess.LogN, records) })
	g.Go(func() error { return l.ingestAll(ctx, records, own) })
	g.Go(func() error { return l.handOver(ctx, own) })
	if !l.r.c.o.keepsWorkspaces() {
		g.Go(func() error { return l.keepCheckpoint(ctx, sess) })
	}
	if l.r.c.o.Egress != nil {
		g.Go(func() error { return l.keepEgress(ctx, sess, agent) })
	}
	return true, g.Wait()
}

func (l *link) bind(ctx context.Context, sess store.Session, agent store.Agent) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	health, err := l.api.GetHealthWithResponse(ctx)
	if err != nil {
		return err
	}
	if health.JSON200 == nil {
		return fmt.Errorf("health of sandbox: %s", refusal(health.StatusCode(), health.Body))
	}
	if health.JSON200.SandboxID != string(l.box) {
		return fmt.Errorf("sandbox answers as %q", health.JSON200.SandboxID)
	}
	if health.JSON200.State != "unbound" {
		if health.JSON200.SessionID == nil || *health.JSON200.SessionID != l.session || health.JSON200.Attempt != l.attempt {
			return &gone{"its sandbox serves another session"}
		}
		return l.renewEgress(ctx, sess, agent)
	}
	cfg, err := l.r.binding(ctx, sess, agent)
	var refused *gateway.Refused
	if errors.Is(err, errNoSettings) || errors.As(err, &refused) {
		return &gone{err.Error()}
	}
	if err != nil {
		return err
	}
	if err := l.giveBack(ctx, sess, &cfg); err != nil {
		return err
	}
	res, err := l.api.BindSessionWithResponse(ctx, cfg)
	if err != nil {
		return err
	}
	switch res.StatusCode() {
	case http.StatusOK:
		return nil
	case http.StatusBadRequest, http.StatusConflict:
		return &gone{"its sandbox refused the session: " + refusal(res.StatusCode(), res.Body)}
	}
	return fmt.Errorf("bind sandbox: %s", refusal(res.StatusCode(), res.Body))
}

// refusal is what sandboxd said, bounded.
func refusal(status int, body []byte) string {
	var r sandboxd.Refusal
	if json.Unmarshal(body, &r) != nil || r.Error == "" {
		return http.StatusText(status)
	}
	return r.Error[:min(len(r.Error), 500)]
}

// tail reads the sandbox's event log from after n on. Only a broken stream ends it.
func (l *link) tail(ctx context.Context, n int64, out chan<- sandboxd.Record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := l.api.StreamEvents(ctx, &sandboxd.StreamEventsParams{After: &n})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("event log of sandbox: %s", http.StatusText(res.StatusCode))
	}
	silence := time.AfterFunc(silenceMax, cancel)
	defer silence.Stop()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxRecord)
	for lines.Scan() {
		silence.Reset(silenceMax)
		if len(lines.Bytes()) == 0 {
			continue
		}
		var rec sandboxd.Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			return &gone{"its sandbox sent a record that is not JSON"}
		}
		select {
		case out <- rec:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return &gone{"its sandbox sent a record that is too long"}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// lull is how long the beginning of a turn waits for what comes next, to be committed with it: nobody waits for it.
const lull = 2 * time.Millisecond

// ingestAll commits records: at once when there is one, together what arrived meanwhile.
func (l *link) ingestAll(ctx context.Context, in <-chan sandboxd.Record, own *slot) error {
	for first := range in {
		group := append(make([]sandboxd.Record, 0, 8), first)
		if first.Type == "turn.started" {
			select {
			case rec, ok := <-in:
				if ok {
					group = append(group, rec)
				}
			case <-time.After(lull):
			}
		}
		var after store.Session
		err := l.observe(ctx, func(tx *store.SessionTx) error {
			group = arrived(in, group) // waiting for the transaction took its time
			if err := ingest(tx, group); err != nil {
				return err
			}
			if after = *tx.Session; endsOneOf(group) {
				// Before the commit is told: who hears of the end may have the next turn at hand. It waits for this transaction.
				own.taken.Store(false)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("store events: %w", err)
		}
		if slices.ContainsFunc(group, endsInstallation) {
			l.r.c.o.Egress.installed(l.session, l.attempt)
		}
		ended := endsOneOf(group)
		if ended {
			signal(l.wake)
			l.r.lookWhenIdle(&after)
		}
		if ended || slices.ContainsFunc(group, func(r sandboxd.Record) bool { return r.Type == "ready" }) {
			signal(l.settled)
		}
	}
	return nil
}

func endsOneOf(group []sandboxd.Record) bool {
	return slices.ContainsFunc(group, func(r sandboxd.Record) bool { return endsTurn(r.Type) })
}

// arrived adds to a group what came after it.
func arrived(in <-chan sandboxd.Record, group []sandboxd.Record) []sandboxd.Record {
	for len(group) < groupMax {
		select {
		case rec, ok := <-in:
			if !ok {
				return group
			}
			group = append(group, rec)
		default:
			return group
		}
	}
	return group
}
