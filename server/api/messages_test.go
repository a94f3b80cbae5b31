package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// endTurn plays the controller: the session's oldest open turn was handed over and has ended.
func (s *server) endTurn(t *testing.T, sessionID, status string, result sandboxd.TurnResult) {
	t.Helper()
	eventually(t, "a turn is queued", func() bool {
		done := false
		err := s.store.Session(t.Context(), sessionID, func(tx *store.SessionTx) error {
			open, err := tx.OpenTurns()
			if err != nil || len(open) == 0 {
				return err
			}
			turn, handed, now := open[0], tx.Now().Add(-time.Second), tx.Now()
			if turn.Result, err = json.Marshal(result); err != nil {
				return err
			}
			turn.Status, turn.Model, turn.HandedAt, turn.EndedAt = status, result.Model, &handed, &now
			if result.Error != nil {
				turn.ErrorName, turn.ErrorMessage = &result.Error.Name, &result.Error.Message
			}
			tx.Append(store.NewEvent{Type: "turn." + status, TurnID: &turn.ID, Data: map[string]any{"info": map[string]any{}}})
			done = true
			return tx.SaveTurn(&turn)
		})
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
}

func ptr[T any](v T) *T { return &v }

var reply = sandboxd.TurnResult{
	Model: ptr("anthropic/claude"), Cost: 0.25, Tokens: sandboxd.Tokens{Input: 1, Output: 2, CacheRead: 3, CacheWrite: 4},
	Parts: []sandboxd.OutputPart{
		{ID: "p1", Type: "text", Text: ptr("hello")},
		{ID: "p2", Type: "tool", Tool: ptr("bash"), CallID: ptr("c"), Status: ptr("completed"), Output: ptr("ok"), Input: ptr(json.RawMessage(`{"command":"ls"}`))},
		{ID: "p3", Type: "tool", Tool: ptr("odd"), Input: ptr(json.RawMessage(`[1]`))},
	},
}

func TestAMessageIsAnsweredWhenItsTurnHasEnded(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		answer := make(chan *client.SendMessageResponse, 1)
		go func() {
			defer close(answer)
			resp, err := s.client.SendMessageWithBodyWithResponse(t.Context(), sess.ID, nil, "application/json", strings.NewReader(`{"text":"hi"}`))
			if err != nil {
				t.Error(err)
				return
			}
			answer <- resp
		}()
		s.endTurn(t, sess.ID, session.TurnCompleted, reply)
		resp := <-answer
		if resp == nil || resp.JSON200 == nil {
			t.Fatalf("got %+v", resp)
		}
		info, parts := resp.JSON200.Info, resp.JSON200.Parts
		if info.Model.MustGet() != "anthropic/claude" || info.Cost != 0.25 || info.Tokens.CacheWrite != 4 || info.DurationMs != 1000 || !info.Error.IsNull() {
			t.Errorf("info %+v", info)
		}
		if len(parts) != 3 || *parts[0].Text != "hello" || parts[1].Input["command"] != "ls" || *parts[1].Output != "ok" || parts[2].Input != nil {
			t.Errorf("parts %s", resp.Body)
		}
		turn, err := s.client.GetTurnWithResponse(t.Context(), sess.ID, info.TurnID)
		if err != nil || turn.JSON200.Status != "completed" || turn.JSON200.SessionID != sess.ID || len(turn.JSON200.Parts) != 3 {
			t.Errorf("turn %s, %v", turn.Body, err)
		}
		wrong, err := s.client.GetTurnWithResponse(t.Context(), s.newSession(t).ID, info.TurnID)
		if err != nil || wrong.StatusCode() != 404 {
			t.Errorf("turn of another session: %s, %v", wrong.Body, err)
		}
	})
}

func TestRespondAsyncAnswersAtOnceWithTheTurn(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	for _, prefer := range []string{"respond-async", "Respond-Async", "wait=5, respond-async;x=y"} {
		resp, body, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"hi"}`, "Prefer", prefer)
		var turn client.Turn
		if err := json.Unmarshal(body, &turn); err != nil || resp.StatusCode != 202 || turn.Status != "queued" || turn.Info.DurationMs != 0 ||
			resp.Header.Get("Location") != sessionPath(sess.ID)+"/turns/"+turn.ID {
			t.Errorf("%q: %d %v %s", prefer, resp.StatusCode, resp.Header, body)
		}
		if resp, _, _ := s.call(t, http.MethodGet, resp.Header.Get("Location"), ""); resp.StatusCode != 200 {
			t.Errorf("Location: %d", resp.StatusCode)
		}
	}
	resp, _, e := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"hi"}`, "Prefer", strings.Repeat("x", 256))
	refused(t, resp, e, 400, "invalid_request", "header/Prefer")
}

func TestTurnsThatEndBadlySayHow(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for name, c := range map[string]struct {
		status, turn, error string
		want                int
	}{
		"the model failed":   {session.TurnFailed, "x", "APIError", 200},
		"aborted":            {session.TurnAborted, "x", "aborted", 200},
		"lost in the middle": {session.TurnFailed, "x", "turn_interrupted", 502},
		"ended before":       {session.TurnFailed, "x", "session_not_ready", 502},
	} {
		sess := s.newSession(t)
		resp, body, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"hi"}`, "Prefer", "respond-async", "Idempotency-Key", "k")
		if resp.StatusCode != 202 {
			t.Fatalf("%s: %s", name, body)
		}
		location := resp.Header.Get("Location")
		s.endTurn(t, sess.ID, c.status, sandboxd.TurnResult{Error: &sandboxd.TurnError{Name: c.error, Message: "what happened"}})
		resp, body, e := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"hi"}`, "Idempotency-Key", "k")
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		if c.want == 502 && (e.Code != c.error || e.Error != "what happened" || resp.Header.Get("Location") != location) {
			t.Errorf("%s: %v %+v", name, resp.Header, e)
		}
		if c.want == 200 && !strings.Contains(string(body), `"error":{"message":"what happened","name":"`+c.error+`"}`) {
			t.Errorf("%s: %s", name, body)
		}
	}
}

func TestAKeyNamesTheTurn(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		send := func(body, key string) (int, string, client.Error) {
			resp, b, e := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", body, "Prefer", "respond-async", "Idempotency-Key", key)
			var turn client.Turn
			_ = json.Unmarshal(b, &turn)
			return resp.StatusCode, turn.ID, e
		}
		odd := `a,b;c="%20!~`
		_, first, _ := send(`{"text":"hi"}`, odd)
		if status, again, _ := send(` { "text" : "h\u0069", "parts": null } `, odd); status != 202 || again != first {
			t.Errorf("repeat: %d, %s and %s", status, first, again)
		}
		if status, _, e := send(`{"text":"ho"}`, odd); status != 422 || e.Code != "idempotency_key_reused" {
			t.Errorf("other body: %d %+v", status, e)
		}
		if status, other, _ := send(`{"text":"hi"}`, `a,b;c="%20!`); status != 202 || other == first {
			t.Errorf("other key: %d %s", status, other)
		}
		for _, key := range []string{"", "a b", "ä", strings.Repeat("k", 256)} {
			if status, _, e := send(`{"text":"hi"}`, key); status != 400 || len(e.Details) == 0 || e.Details[0].Field != "header/Idempotency-Key" {
				t.Errorf("key %q: %d %+v", key, status, e)
			}
		}
		if status, _, _ := send(`{"text":"hi"}`, strings.Repeat("k", 255)); status != 202 {
			t.Errorf("long key: %d", status)
		}
	})
}

func TestMessagesHaveEitherTextOrPartsWithinTheirLimits(t *testing.T) {
	t.Parallel()
	s := serve(t)
	// A valid message goes on to look for the session, which spares storing large ones.
	path := sessionPath("01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11") + "/message"
	image := func(bytes int) string {
		return `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + base64.StdEncoding.EncodeToString(make([]byte, bytes)) + `"}}`
	}
	list := func(parts ...string) string { return `{"parts":[` + strings.Join(parts, ",") + `]}` }
	many := func(n int, part string) string {
		return list(strings.Split(strings.Repeat(part+"|", n)[:n*(len(part)+1)-1], "|")...)
	}
	text := `{"type":"text","text":"x"}`
	for name, c := range map[string]struct {
		body   string
		fields []string
	}{
		"text":                {`{"text":"x"}`, nil},
		"parts":               {list(text, image(3)), nil},
		"null parts":          {`{"text":"x","parts":null}`, nil},
		"ten images":          {many(10, image(1)), nil},
		"the largest image":   {list(image(5 << 20)), nil},
		"20 MiB of images":    {many(4, image(5<<20)), nil},
		"both":                {`{"text":"x","parts":[` + text + `]}`, []string{""}},
		"neither":             {`{}`, []string{""}},
		"both null":           {`{"text":null,"parts":null}`, []string{""}},
		"empty text":          {`{"text":""}`, []string{"/text"}},
		"no part":             {`{"parts":[]}`, []string{"/parts"}},
		"51 parts":            {many(51, text), []string{"/parts"}},
		"11 images":           {many(11, image(1)), []string{"/parts"}},
		"an image too large":  {list(image(5<<20 + 1)), []string{"/parts/0/source/data"}},
		"images too large":    {list(image(5<<20), image(5<<20), image(5<<20), image(5<<20), image(1)), []string{"/parts"}},
		"unknown type":        {list(`{"type":"audio-4711"}`), []string{"/parts/0/type"}},
		"no type":             {list(`{"text":"x"}`), []string{"/parts/0/type"}},
		"a string":            {list(`"x"`), []string{"/parts/0"}},
		"null":                {list(`null`), []string{"/parts/0"}},
		"text without text":   {list(text, `{"type":"text"}`), []string{"/parts/1/text"}},
		"unknown field":       {list(`{"type":"text","text":"x","cache":1}`), []string{"/parts/0/cache"}},
		"url image":           {list(`{"type":"image","source":{"type":"url","url":"http://x"}}`), []string{"/parts/0/source/type", "/parts/0/source/url", "/parts/0/source/media_type", "/parts/0/source/data"}},
		"svg":                 {list(`{"type":"image","source":{"type":"base64","media_type":"image/svg+xml","data":"AAAA"}}`), []string{"/parts/0/source/media_type"}},
		"base64 with a break": {list(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA\nAAAA"}}`), []string{"/parts/0/source/data"}},
		"base64url":           {list(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA-_"}}`), []string{"/parts/0/source/data"}},
		"unpadded":            {list(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAAA"}}`), []string{"/parts/0/source/data"}},
		"left-over bits":      {list(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAAAB=="}}`), []string{"/parts/0/source/data"}},
	} {
		resp, body, e := s.call(t, http.MethodPost, path, c.body)
		status, code := 400, "invalid_request"
		if c.fields == nil {
			status, code = 404, "not_found"
		}
		refused(t, resp, e, status, code, c.fields...)
		if t.Failed() || strings.Contains(string(body), "4711") {
			t.Fatalf("%s: %s", name, body)
		}
	}
}

func TestPartsReachTheTurnAsTheyWereSent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		resp, body, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"parts":[{"type":"text","text":"see <b>"},
			{"type":"image","source":{"type":"base64","media_type":"image/gif","data":"R0lGODlh"}}]}`, "Prefer", "respond-async")
		var turn client.Turn
		if err := json.Unmarshal(body, &turn); err != nil || resp.StatusCode != 202 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		input, err := s.store.TurnInput(t.Context(), sess.ID, turn.ID)
		if err != nil {
			t.Fatal(err)
		}
		var parts []sandboxd.InputPart
		if err := json.Unmarshal(input, &parts); err != nil {
			t.Fatal(err)
		}
		if len(parts) != 2 || parts[0].Type != "text" || *parts[0].Text != "see <b>" || parts[0].Data != nil || parts[1].Type != "image" ||
			*parts[1].MediaType != "image/gif" || string(parts[1].Data) != "GIF89a" || parts[1].Text != nil {
			t.Errorf("got %s", input)
		}
	})
}

func TestAMessageIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	message := func(id string) (*http.Response, client.Error) {
		resp, _, e := s.call(t, http.MethodPost, sessionPath(id)+"/message", `{"text":"x"}`, "Prefer", "respond-async")
		return resp, e
	}
	for range session.MaxQueued {
		if resp, e := message(sess.ID); resp.StatusCode != 202 {
			t.Fatalf("got %d %+v", resp.StatusCode, e)
		}
	}
	resp, e := message(sess.ID)
	refused(t, resp, e, 429, "too_many_queued_turns")
	if resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if err := s.service.Delete(t.Context(), sess.ID); err != nil {
		t.Fatal(err)
	}
	resp, e = message(sess.ID)
	refused(t, resp, e, 404, "session_not_ready")

	codex := s.newAgent(t, `{"model":"m","harness_id":"codex"}`)
	tui, err := s.client.CreateSessionWithResponse(t.Context(), codex.ID, nil, client.SessionCreate{})
	if err != nil || tui.JSON200 == nil || !tui.JSON200.SupportsTui {
		t.Fatalf("create: %s, %v", tui.Body, err)
	}
	resp, e = message(tui.JSON200.ID)
	refused(t, resp, e, 409, "harness_is_tui")
}

func TestAWaitingMessageEndsWithTheServerAndWithItsClient(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := s.client.SendMessageWithBodyWithResponse(ctx, sess.ID, nil, "application/json", strings.NewReader(`{"text":"one"}`))
		gone <- err
	}()
	s.queued(t, sess.ID, 1)
	cancel()
	if err := <-gone; err == nil {
		t.Error("the client got an answer")
	}
	eventually(t, "the log has the client's leaving", func() bool { return strings.Contains(s.logs.String(), `"status":499`) })

	status := make(chan string, 1)
	go func() {
		resp, _, e := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"two"}`)
		status <- fmt.Sprint(resp.StatusCode, e.Code)
	}()
	s.queued(t, sess.ID, 2)
	s.close()
	if got := <-status; got != "503shutting_down" {
		t.Errorf("got %s", got)
	}
	s.queued(t, sess.ID, 2)
}

func (s *server) queued(t *testing.T, sessionID string, n int64) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " turns"), func() bool {
		sess, err := s.store.GetSession(t.Context(), sessionID)
		return err == nil && sess.TurnCount == n
	})
}

func TestAClientThatStopsSendingGetsNoFalseSuccess(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	head := "POST " + sessionPath(sess.ID) + "/message HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + masterKey + "\r\n"
	for rest, want := range map[string]string{
		"Content-Length: 12\r\n\r\n{\"text\":\"x\"}": "",
		"Content-Length: 99\r\n\r\n{\"text\":\"x\"}": "HTTP/1.1 400 Bad Request",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, head+rest); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if line, _, _ := strings.Cut(string(answer), "\r\n"); err != nil || line != want {
			t.Errorf("%q: %q, %v", rest, answer, err)
		}
		_ = conn.Close()
	}
}
