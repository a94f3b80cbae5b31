package api_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const (
	codexAgent    = `{"model":"m","harness_id":"codex"}`
	terminalProto = "lap.tty.v1"
)

// attached is the sandbox's end of a terminal.
type attached struct {
	*websocket.Conn
	query string
}

// terminal makes a sandboxd with a terminal, whose ends come through the channel. Until the test has ended they stay open.
func (b *box) terminal(t *testing.T, refusal int) <-chan attached {
	t.Helper()
	ends, over := make(chan attached, 100), make(chan struct{})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, seed := storetest.Keyring(t).Derive("sandbox-caller")
		key, _ := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
		if err := sandbox.VerifyToken(key, r.Header.Get(sandbox.TokenHeader), boxID, time.Now()); err != nil {
			t.Errorf("sandboxd is called: %v", err)
		}
		if r.URL.Path != "/v1/terminal" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		for _, name := range []string{"Authorization", "Cookie", "Origin", "X-Forwarded-For", "Forwarded"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("the sandbox gets the client's %s", name)
			}
		}
		if refusal != 0 {
			w.WriteHeader(refusal)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{terminalProto}})
		if err != nil || c.Subprotocol() != terminalProto {
			t.Errorf("sandboxd: %v", err)
			return
		}
		c.SetReadLimit(-1)
		ends <- attached{c, r.URL.RawQuery}
		<-over
		_ = c.CloseNow()
	}))
	t.Cleanup(hs.Close)
	t.Cleanup(func() { close(over) })
	b.addr = strings.TrimPrefix(hs.URL, "http://")
	return ends
}

// ttyOptions say how a client attaches; nothing shows the key by itself.
type ttyOptions struct {
	query  string
	proto  string
	header http.Header
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func ttyPath(id string) string { return sessionPath(id) + "/tty" }

// openTTY opens a terminal as a client does.
func (s *server) openTTY(t *testing.T, id string, o ttyOptions) *websocket.Conn {
	t.Helper()
	do := &websocket.DialOptions{HTTPClient: apitest.HTTPClient(t, ""), HTTPHeader: o.header}
	if o.proto != "" {
		do.Subprotocols = []string{o.proto}
	}
	c, resp, err := websocket.Dial(t.Context(), s.url+ttyPath(id)+o.query, do)
	if err != nil {
		var text []byte
		if resp != nil {
			text, _ = io.ReadAll(resp.Body)
		}
		t.Fatalf("attach: %v %s", err, text)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// serveTTY is the API with a session of a harness with a terminal, ready, and the sandbox's ends of that.
func serveTTY(t *testing.T, change ...func(*api.Options, *session.Options)) (s *server, id string, ends <-chan attached) {
	t.Helper()
	b := &box{}
	ends = b.terminal(t, 0)
	s, id = serveTUI(t, b, change...)
	return s, id, ends
}

func serveTUI(t *testing.T, b *box, change ...func(*api.Options, *session.Options)) (s *server, id string) {
	t.Helper()
	s = serveOn(t, storetest.Open(t, storetest.KindSQLite), append(change, func(_ *api.Options, o *session.Options) { o.Runtime = b })...)
	return s, s.newTUI(t)
}

// newTUI makes a session whose sandbox is the box.
func (s *server) newTUI(t *testing.T) string {
	t.Helper()
	a := s.newAgent(t, codexAgent)
	resp, err := s.client.CreateSessionWithResponse(t.Context(), a.ID, nil, client.SessionCreate{})
	if err != nil || resp.JSON200 == nil {
		t.Fatalf("%v %s", err, resp.Body)
	}
	s.change(t, resp.JSON200.ID, ready)
	return resp.JSON200.ID
}

func ready(tx *store.SessionTx) {
	now := tx.Now()
	tx.Session.SandboxID, tx.Session.Status, tx.Session.SandboxState, tx.Session.ReadyAt = boxID, session.Ready, "running", &now
}

// token is the tty_token of a session.
func (s *server) token(t *testing.T, id string) string {
	t.Helper()
	resp, err := s.client.GetSessionWithResponse(t.Context(), id)
	if err != nil || resp.JSON200 == nil {
		t.Fatalf("%v %s", err, resp.Body)
	}
	token, err := resp.JSON200.TtyToken.Get()
	if url, _ := resp.JSON200.TtyURL.Get(); err != nil || url != ttyPath(id) {
		t.Fatalf("url %q, token %v", url, err)
	}
	return token
}

// upgrade are the headers of a request for a WebSocket, with changes; an empty value takes a header away.
func upgrade(change ...string) []string {
	h := map[string]string{
		"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	for i := 0; i < len(change); i += 2 {
		h[change[i]] = change[i+1]
	}
	var list []string
	for name, v := range h {
		if v != "" {
			list = append(list, name, v)
		}
	}
	return list
}

func TestTheTerminalIsForHoldersOfTheKeyOrOfItsToken(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t)
	token, other := s.token(t, id), s.token(t, s.newTUI(t))
	expired := s.service.TerminalToken(id, time.Now().Add(-12*time.Hour))
	for name, o := range map[string]ttyOptions{
		"the key":                  {header: bearer(masterKey)},
		"its token":                {header: bearer(token)},
		"its token in the URL":     {query: "?token=" + token},
		"its token, twice":         {query: "?token=" + token, header: bearer(token)},
		"the key and its token":    {query: "?token=" + token, header: bearer(masterKey)},
		"a token of a moment less": {query: "?token=" + s.service.TerminalToken(id, time.Now().Add(-12*time.Hour+time.Minute))},
	} {
		c := s.openTTY(t, id, o)
		end := <-ends
		if err := c.Write(t.Context(), websocket.MessageBinary, []byte(name)); err != nil {
			t.Fatal(err)
		}
		if typ, b, err := end.Read(t.Context()); string(b) != name || typ != websocket.MessageBinary || err != nil {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	for name, o := range map[string]ttyOptions{
		"nothing":                              {},
		"the key in the URL":                   {query: "?token=" + masterKey},
		"the key, also in the URL":             {query: "?token=" + masterKey, header: bearer(masterKey)},
		"the token of another session":         {header: bearer(other)},
		"that in the URL":                      {query: "?token=" + other},
		"that and the key":                     {query: "?token=" + other, header: bearer(masterKey)},
		"an expired token":                     {header: bearer(expired)},
		"that in the URL, too":                 {query: "?token=" + expired},
		"its token in the URL and a wrong key": {query: "?token=" + token, header: bearer("wrong")},
		"its token in the URL, twice":          {query: "?token=" + token + "&token=" + token},
		"its token under another name":         {query: "?tty_token=" + token},
		"an empty token":                       {query: "?token="},
		"its token with more":                  {query: "?token=" + token + "A"},
		"its token with a line break":          {query: "?token=" + token + "%0A"},
		"its token as a basic one":             {header: http.Header{"Authorization": {"Basic " + token}}},
		"two headers":                          {header: http.Header{"Authorization": {"Bearer " + token, "Bearer " + token}}},
	} {
		h := upgrade()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+ttyPath(id)+o.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(h); i += 2 {
			req.Header.Set(h[i], h[i+1])
		}
		for k, v := range o.header {
			req.Header[k] = v
		}
		resp, err := apitest.HTTPClient(t, "").Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	// A token is for nothing but the terminal.
	for _, path := range []string{sessionPath(id), sessionPath(id) + "/events?follow=false", agentsPath} {
		resp, _, e := s.call(t, http.MethodGet, path, "", "Authorization", "Bearer "+token)
		refused(t, resp, e, http.StatusUnauthorized, "unauthorized")
	}
	if strings.Contains(s.logs.String(), token[:20]) || strings.Contains(s.logs.String(), other[10:30]) || strings.Contains(s.logs.String(), masterKey) {
		t.Error("a credential is in the log")
	}
	if len(ends) != 0 {
		t.Error("a refused client got as far as the sandbox")
	}
}

func TestTheTerminalIsRefusedBeforeTheUpgrade(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t, func(o *api.Options, _ *session.Options) { o.Origins = []string{"https://console.example"} })
	ask := func(id, query string, status int, code string, headers []string, fields ...string) {
		t.Helper()
		resp, _, e := s.call(t, http.MethodGet, ttyPath(id)+query, "", headers...)
		refused(t, resp, e, status, code, fields...)
	}
	for _, origin := range []string{"https://evil.example", "null", "http://console.example", "https://console.example:8443", "https://console.example.evil.example"} {
		ask(id, "", http.StatusForbidden, "origin_not_allowed", upgrade("Origin", origin))
	}
	for _, h := range [][]string{upgrade("Upgrade", ""), upgrade("Upgrade", "h2c"), upgrade("Connection", ""), upgrade("Connection", "close"), nil} {
		ask(id, "", http.StatusUpgradeRequired, "upgrade_required", h)
	}
	ask(id, "", http.StatusBadRequest, "invalid_request", upgrade("Sec-WebSocket-Version", "8", "Sec-WebSocket-Key", "c2hvcnQ="),
		"header/Sec-WebSocket-Version", "header/Sec-WebSocket-Key")
	ask(id, "?cols=0&rows=1001", http.StatusBadRequest, "invalid_request", upgrade(), "query/cols", "query/rows")
	ask(id, "?cols=x", http.StatusBadRequest, "invalid_request", upgrade(), "query/cols")
	ask("01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a", "", http.StatusNotFound, "not_found", upgrade())
	ask("x", "", http.StatusNotFound, "not_found", upgrade())
	ask(s.newSession(t).ID, "", http.StatusConflict, "harness_has_no_terminal", upgrade())

	for _, status := range []string{session.Creating, session.Failed, session.Dead} {
		other := s.newTUI(t)
		s.change(t, other, func(tx *store.SessionTx) { tx.Session.Status = status })
		ask(other, "", http.StatusConflict, "session_not_ready", upgrade())
	}
	other := s.newTUI(t)
	token := s.token(t, other)
	if _, err := s.client.DeleteSessionWithResponse(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	ask(other, "", http.StatusNotFound, "not_found", upgrade("Authorization", "Bearer "+token))
	if len(ends) != 0 {
		t.Error("a refused client got as far as the sandbox")
	}
	s.openTTY(t, id, ttyOptions{header: http.Header{"Authorization": {"Bearer " + masterKey}, "Origin": {"https://console.example"}}, query: "?cols=91&rows=17"})
	if end := <-ends; end.query != "cols=91&rows=17" {
		t.Errorf("the sandbox is told %q", end.query)
	}
	s.close()
	ask(id, "", http.StatusServiceUnavailable, "shutting_down", upgrade())
}

func TestASandboxWithoutItsTerminalIsToldApart(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]struct {
		status int
		code   string
	}{
		http.StatusConflict:            {http.StatusConflict, "session_not_ready"},
		http.StatusInternalServerError: {http.StatusServiceUnavailable, "sandbox_not_answering"},
		http.StatusOK:                  {http.StatusServiceUnavailable, "sandbox_not_answering"},
		http.StatusFound:               {http.StatusServiceUnavailable, "sandbox_not_answering"},
	} {
		b := &box{}
		b.terminal(t, status)
		s, id := serveTUI(t, b)
		resp, _, e := s.call(t, http.MethodGet, ttyPath(id), "", upgrade()...)
		refused(t, resp, e, want.status, want.code)
	}
	b := &box{addr: "127.0.0.1:1"}
	s, id := serveTUI(t, b)
	resp, _, e := s.call(t, http.MethodGet, ttyPath(id), "", upgrade()...)
	refused(t, resp, e, http.StatusServiceUnavailable, "sandbox_not_answering")
	if resp.Header.Get("Retry-After") != "1" || strings.Contains(e.Error, "127.0.0.1") {
		t.Errorf("%+v %v", e, resp.Header)
	}
}

func TestOnlyTheAnswerOfGetSessionNamesTheTerminal(t *testing.T) {
	t.Parallel()
	s, id, _ := serveTTY(t)
	s.token(t, id)
	for _, path := range []string{strings.TrimSuffix(sessionPath(""), "/"), sessionPath(id) + "/diagnose"} {
		if _, body, _ := s.call(t, http.MethodGet, path, ""); strings.Contains(string(body), "tty1.") || !strings.Contains(string(body), `"tty_token":null`) {
			t.Errorf("%s: %s", path, body)
		}
	}
	for _, action := range []string{"stop", "restart"} {
		if _, body, _ := s.call(t, http.MethodPost, sessionPath(id)+"/"+action, ""); !strings.Contains(string(body), `"tty_token":null`) {
			t.Errorf("%s: %s", action, body)
		}
	}
	for name, change := range map[string]func(tx *store.SessionTx){
		"creating": func(tx *store.SessionTx) { tx.Session.Status = session.Creating },
		"dead":     func(tx *store.SessionTx) { tx.Session.Status = session.Dead },
	} {
		s.change(t, id, change)
		resp, err := s.client.GetSessionWithResponse(t.Context(), id)
		if err != nil || !resp.JSON200.TtyToken.IsNull() || !resp.JSON200.TtyURL.IsNull() {
			t.Errorf("%s: %s", name, resp.Body)
		}
	}
	resp, err := s.client.GetSessionWithResponse(t.Context(), s.newSession(t).ID)
	if err != nil || !resp.JSON200.TtyToken.IsNull() || !resp.JSON200.TtyURL.IsNull() {
		t.Errorf("a session that takes messages: %s", resp.Body)
	}
}

// closed reads until the connection closes and returns how, and what came before.
func closed(ctx context.Context, t *testing.T, c *websocket.Conn) (websocket.StatusCode, string, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all []byte
	for {
		_, b, err := c.Read(ctx)
		all = append(all, b...)
		if err != nil {
			var ce websocket.CloseError
			if !errors.As(err, &ce) {
				t.Fatalf("not closed: %v", err)
			}
			return ce.Code, ce.Reason, all
		}
	}
}
