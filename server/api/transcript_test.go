package api_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
)

// send queues a message.
func (s *server) send(t *testing.T, sessionID, body string, headers ...string) {
	t.Helper()
	resp, b, _ := s.call(t, http.MethodPost, sessionPath(sessionID)+"/message", body, append(headers, "Prefer", "respond-async")...)
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
}

func (s *server) transcript(t *testing.T, sessionID string, p client.ListMessagesParams) client.TranscriptPage {
	t.Helper()
	resp, err := s.client.ListMessagesWithResponse(t.Context(), sessionID, &p)
	if err != nil {
		t.Fatal(err)
	}
	if resp.JSON200 == nil {
		t.Fatalf("transcript: %s", resp.Body)
	}
	return *resp.JSON200
}

// show is a message as role:text.
func show(m client.TranscriptMessage) string {
	text := ""
	for _, p := range m.Parts {
		if p.Text != nil {
			text += *p.Text
		}
	}
	return string(m.Info.Role) + ":" + text
}

func shown(list []client.TranscriptMessage) string {
	var out []string
	for _, m := range list {
		out = append(out, show(m))
	}
	return strings.Join(out, " ")
}

func replied(text string) sandboxd.TurnResult {
	return sandboxd.TurnResult{Model: ptr("m"), Cost: 0.5, Tokens: sandboxd.Tokens{Input: 7}, Parts: []sandboxd.OutputPart{{ID: "p", Type: "text", Text: &text}}}
}

func TestTheTranscriptHasBothSidesOfEndedTurnsAndOneOfOpenOnes(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		if p := s.transcript(t, sess.ID, client.ListMessagesParams{}); len(p.Data) != 0 || p.Total.MustGet() != 0 || !p.NextCursor.IsNull() {
			t.Errorf("before the first message: %+v", p)
		}
		png := base64.StdEncoding.EncodeToString(make([]byte, 100))
		s.send(t, sess.ID, `{"parts":[{"type":"text","text":"one"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"`+png+`"}}]}`)
		s.send(t, sess.ID, `{"text":"two"}`)
		s.send(t, sess.ID, `{"text":"three"}`)
		s.endTurn(t, sess.ID, session.TurnCompleted, replied("uno"))
		s.endTurn(t, sess.ID, session.TurnFailed, sandboxd.TurnResult{Error: &sandboxd.TurnError{Name: "turn_interrupted", Message: "lost"}})
		p := s.transcript(t, sess.ID, client.ListMessagesParams{})
		if got := shown(p.Data); got != "user:one assistant:uno user:two assistant: user:three" || p.Total.MustGet() != 5 || p.Limit != 50 || p.Offset != 0 {
			t.Fatalf("got %s of %d", got, p.Total.MustGet())
		}
		image := p.Data[0].Parts[1]
		if image.Type != "image" || *image.MediaType != "image/png" || *image.Size != 100 || image.Text != nil {
			t.Errorf("image %+v", image)
		}
		user, reply, failed := p.Data[0].Info, p.Data[1].Info, p.Data[3].Info
		if user.TurnID != reply.TurnID || user.ID == reply.ID || !user.Model.IsNull() || user.Cost != 0 || reply.Model.MustGet() != "m" ||
			reply.Cost != 0.5 || reply.Tokens.Input != 7 || !reply.Error.IsNull() || failed.Error.MustGet().Name != "turn_interrupted" {
			t.Errorf("infos %+v %+v %+v", user, reply, failed)
		}
		if reply.Time.Before(user.Time) {
			t.Errorf("times %s %s", user.Time, reply.Time)
		}
		// What has been said stays readable when the session is gone.
		if del, err := s.client.DeleteSessionWithResponse(t.Context(), sess.ID); err != nil || del.StatusCode() != 204 {
			t.Fatal(err)
		}
		if got := shown(s.transcript(t, sess.ID, client.ListMessagesParams{}).Data); got != "user:one assistant:uno user:two assistant: user:three assistant:" {
			t.Errorf("after DELETE: %s", got)
		}
	})
}

func TestTranscriptsAreReadInPages(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		for i := range 7 {
			s.send(t, sess.ID, fmt.Sprintf(`{"text":"q%d"}`, i))
		}
		for i := range 4 {
			s.endTurn(t, sess.ID, session.TurnCompleted, replied(fmt.Sprintf("a%d", i)))
		}
		whole := s.transcript(t, sess.ID, client.ListMessagesParams{}).Data
		if len(whole) != 11 {
			t.Fatalf("%s", shown(whole))
		}
		for limit := 1; limit <= 12; limit++ {
			var byCursor, byOffset []client.TranscriptMessage
			params := client.ListMessagesParams{Limit: &limit, Total: ptr(false)}
			for {
				p := s.transcript(t, sess.ID, params)
				if !p.Total.IsNull() || len(p.Data) == 0 {
					t.Fatalf("page %+v", p)
				}
				byCursor = append(byCursor, p.Data...)
				if p.NextCursor.IsNull() {
					break
				}
				params.Cursor = ptr(p.NextCursor.MustGet())
			}
			for offset := 0; offset < 11; offset += limit {
				byOffset = append(byOffset, s.transcript(t, sess.ID, client.ListMessagesParams{Limit: &limit, Offset: ptr(offset)}).Data...)
			}
			if !reflect.DeepEqual(byCursor, whole) || !reflect.DeepEqual(byOffset, whole) {
				t.Errorf("limit %d: %s | %s", limit, shown(byCursor), shown(byOffset))
			}
		}
		if p := s.transcript(t, sess.ID, client.ListMessagesParams{Offset: ptr(11)}); len(p.Data) != 0 || p.Offset != 11 || p.Total.MustGet() != 11 {
			t.Errorf("behind the end: %+v", p)
		}
		// A cursor holds its place while the turn at it ends.
		p := s.transcript(t, sess.ID, client.ListMessagesParams{Limit: ptr(9)})
		s.endTurn(t, sess.ID, session.TurnCompleted, replied("a4"))
		if got := shown(s.transcript(t, sess.ID, client.ListMessagesParams{Cursor: ptr(p.NextCursor.MustGet())}).Data); got != "assistant:a4 user:q5 user:q6" {
			t.Errorf("after the cursor: %s", got)
		}
	})
}

func TestCursorsOfATranscriptAreOnlyOurOwn(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	for _, c := range []string{"", "x", "e30", base64.RawURLEncoding.EncodeToString([]byte(`{"p":0,"r":"user"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{"p":1,"r":"tool"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{"r":"user","p":1}`))} {
		resp, _, e := s.call(t, http.MethodGet, sessionPath(sess.ID)+"/messages?cursor="+url.QueryEscape(c), "")
		refused(t, resp, e, 400, "invalid_request", "query/cursor")
	}
	resp, _, e := s.call(t, http.MethodGet, sessionPath("01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a")+"/messages", "")
	refused(t, resp, e, 404, "not_found")
}

func (s *server) streamMessage(ctx context.Context, t *testing.T, sessionID, body string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+sessionPath(sessionID)+"/message_stream", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// types is what a stream said until the server ended it.
func types(ctx context.Context, t *testing.T, resp *http.Response) (string, string) {
	t.Helper()
	var list, turns []string
	events, err := apitest.ReadEvents(ctx, resp.Body, func(client.Event) bool { return false })
	if !errors.Is(err, io.EOF) {
		t.Errorf("the stream did not end by itself: %v", err)
	}
	for _, e := range events {
		list = append(list, e.Type)
		turns = append(turns, e.TurnID.MustGet())
	}
	return strings.Join(list, " "), strings.Join(turns, " ")
}

func TestAMessageStreamHasTheEventsOfItsTurnAndEndsWithIt(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		sess := s.newSession(t)
		s.send(t, sess.ID, `{"text":"before"}`)
		resp := s.streamMessage(ctx, t, sess.ID, `{"text":"mine"}`, "Idempotency-Key", "k")
		s.emit(t, sess.ID, "of no turn")
		s.send(t, sess.ID, `{"text":"behind"}`)
		s.endTurn(t, sess.ID, session.TurnCompleted, replied("another's"))
		s.endTurn(t, sess.ID, session.TurnCompleted, replied("mine"))
		got, turns := types(ctx, t, resp)
		if resp.StatusCode != 200 || got != "turn.queued turn.completed" {
			t.Fatalf("%d %s", resp.StatusCode, got)
		}
		// The key joins the turn from its start, though it has ended.
		again := s.streamMessage(ctx, t, sess.ID, `{"text":"mine"}`, "Idempotency-Key", "k")
		if got2, turns2 := types(ctx, t, again); got2 != got || turns2 != turns {
			t.Errorf("joined: %s of %s, want %s", got2, turns2, turns)
		}
		if p := s.transcript(t, sess.ID, client.ListMessagesParams{}); p.Total.MustGet() != 5 {
			t.Errorf("%s", shown(p.Data))
		}
	})
}

func TestATurnGoesOnWhenItsStreamIsLeft(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	resp := s.streamMessage(ctx, t, sess.ID, `{"text":"hi"}`)
	if _, err := apitest.ReadEvents(ctx, resp.Body, until(1)); err != nil {
		t.Fatal(err)
	}
	leave()
	s.endTurn(t, sess.ID, session.TurnCompleted, replied("still here"))
	if got := shown(s.transcript(t, sess.ID, client.ListMessagesParams{}).Data); got != "user:hi assistant:still here" {
		t.Errorf("got %s", got)
	}
}

func TestMessageStreamsAreRefusedLikeMessages(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	path := func(id string) string { return sessionPath(id) + "/message_stream" }
	resp, _, e := s.call(t, http.MethodPost, path("x"), `{"text":"hi"}`)
	refused(t, resp, e, 404, "not_found")
	resp, _, e = s.call(t, http.MethodPost, path(sess.ID), `{"text":"hi","parts":[]}`)
	refused(t, resp, e, 400, "invalid_request", "", "/parts")
	s.send(t, sess.ID, `{"text":"hi"}`, "Idempotency-Key", "k")
	resp, _, e = s.call(t, http.MethodPost, path(sess.ID), `{"text":"other"}`, "Idempotency-Key", "k")
	refused(t, resp, e, 422, "idempotency_key_reused")
	if stopped, err := s.client.StopSessionWithResponse(t.Context(), sess.ID, nil); err != nil || stopped.JSON200 == nil {
		t.Fatal(err)
	}
	resp, _, e = s.call(t, http.MethodPost, path(sess.ID), `{"text":"hi"}`)
	refused(t, resp, e, 404, "session_not_ready")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got, _ := types(ctx, t, s.streamMessage(ctx, t, sess.ID, `{"text":"hi"}`, "Idempotency-Key", "k")); got != "turn.queued turn.failed" {
		t.Errorf("a turn that never ran: %s", got)
	}
}
