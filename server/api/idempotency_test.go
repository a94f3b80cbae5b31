package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// answer is what the tests compare of a response.
type answer struct {
	status         int
	replayed, etag string
	body           string
	code           string
}

// post sends a body with a key, an empty one is none.
func (s *server) post(t *testing.T, path, body, key string) answer {
	t.Helper()
	var headers []string
	if key != "" {
		headers = []string{"Idempotency-Key", key}
	}
	resp, b, e := s.call(t, http.MethodPost, path, body, headers...)
	return answer{resp.StatusCode, resp.Header.Get("Idempotency-Replayed"), resp.Header.Get("ETag"), string(b), e.Code}
}

// repeat posts the same again and checks that nothing but the mark of the replay differs.
func (s *server) repeat(t *testing.T, path, body, key string, first answer) {
	t.Helper()
	first.replayed = "true"
	if again := s.post(t, path, body, key); again != first {
		t.Errorf("repeat of POST %s:\n%+v, want\n%+v", path, again, first)
	}
}

func idOf(t *testing.T, body string) string {
	t.Helper()
	var object struct{ ID string }
	if err := json.Unmarshal([]byte(body), &object); err != nil || object.ID == "" {
		t.Fatalf("no id in %s: %v", body, err)
	}
	return object.ID
}

func (s *server) total(t *testing.T, path string) int {
	t.Helper()
	_, body, _ := s.call(t, http.MethodGet, path, "")
	var list struct{ Total *int }
	if err := json.Unmarshal(body, &list); err != nil || list.Total == nil {
		t.Fatalf("no total in %s: %v", body, err)
	}
	return *list.Total
}

const (
	sessionsPath = "/api/v1/managed_agents/sessions"
	skillsPath   = "/api/v1/skills"
)

func TestEveryPOSTTakesAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t)
	id := "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
	fill := strings.NewReplacer("{agent_id}", id, "{session_id}", id)
	for path, item := range doc.Paths.Map() {
		if item.Post == nil {
			continue
		}
		if item.Post.Parameters.GetByInAndName("header", "Idempotency-Key") == nil {
			t.Errorf("POST %s takes none", path)
			continue
		}
		// Whatever is wrong with this request, its repeat is answered with the same. Turns have keys of their own.
		first := s.post(t, fill.Replace(path), `{}`, "key")
		if first.status < 400 || first.status > 404 || first.replayed != "" {
			t.Errorf("POST %s: %+v", path, first)
		}
		if op := item.Post.OperationID; op != "sendMessage" && op != "streamMessage" {
			s.repeat(t, fill.Replace(path), `{}`, "key", first)
		}
	}
}

func TestConcurrentRequestsWithOneKeyCreateOneThing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		agent := s.newAgent(t, `{"model":"m"}`).ID
		for _, c := range []struct {
			create, body, list string
			before, status     int
		}{
			{agentsPath, `{"model":"m","env_vars":{"A":"b"}}`, agentsPath, 1, 200},
			{agentsPath + "/" + agent + "/session", `{"env_vars":{"A":"b"}}`, sessionsPath, 0, 200},
			{skillsPath, `{"name":"n","content":"c"}`, skillsPath, 0, 201},
		} {
			const callers = 24
			answers := make([]answer, callers)
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() { answers[i] = s.post(t, c.create, c.body, "key") })
			}
			wg.Wait()
			fresh := 0
			for _, a := range answers {
				if a.replayed == "" {
					fresh++
				}
				if a.status != c.status || a.body != answers[0].body || a.etag != answers[0].etag {
					t.Errorf("%s: got %+v and %+v", c.create, a, answers[0])
				}
			}
			if n := s.total(t, c.list); n != c.before+1 || fresh != 1 {
				t.Errorf("%s: %d in the list, %d fresh answers", c.create, n, fresh)
			}
		}
		if kept := s.settings.all(); len(kept) != 1 {
			t.Errorf("settings of %d sessions are kept", len(kept))
		}
	})
}

func TestAKeyBelongsToItsPathAndBody(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		first := s.post(t, agentsPath, `{"model":"m"}`, "key")
		if first.status != 200 || first.etag == "" {
			t.Fatalf("%+v", first)
		}
		s.repeat(t, agentsPath, `{"model":"m"}`, "key", first)
		for _, body := range []string{`{"model":"n"}`, `{"model":"m"} `, `{`, `{"model":4711}`} {
			if a := s.post(t, agentsPath, body, "key"); a.status != 422 || a.code != "idempotency_key_reused" || a.replayed != "" {
				t.Errorf("%s: %+v", body, a)
			}
		}
		s.repeat(t, agentsPath, `{"model":"m"}`, "key", first)
		one := s.newAgent(t, `{"model":"m"}`).ID
		two := s.newAgent(t, `{"model":"m"}`).ID
		sessions := map[string]bool{}
		for _, agent := range []string{one, two} {
			path := agentsPath + "/" + agent + "/session"
			a := s.post(t, path, ``, "key")
			s.repeat(t, path, ``, "key", a)
			sessions[idOf(t, a.body)] = true
		}
		if len(sessions) != 2 {
			t.Error("two agents share a key")
		}
		// Requests without a key, and with another, are independent.
		if a := s.post(t, agentsPath, `{"model":"m"}`, ""); a.replayed != "" || a.body == first.body {
			t.Errorf("without a key: %+v", a)
		}
		if n := s.total(t, agentsPath); n != 4 {
			t.Errorf("%d agents", n)
		}
	})
}

func TestAReplayHasTheRequestIDOfItsOwnRequest(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, id := range []string{"one", "two"} {
		resp, _, _ := s.call(t, http.MethodPost, agentsPath, `{"model":"m"}`, "Idempotency-Key", "key", "X-Request-Id", id)
		if got := resp.Header.Get("X-Request-Id"); got != id || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v", resp.Header)
		}
	}
}

func TestWhichAnswersAreStored(t *testing.T) {
	t.Parallel()
	s := serve(t)
	unknown := agentsPath + "/01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11/session"
	for name, c := range map[string]struct {
		path, body string
		status     int
	}{
		"not JSON":         {agentsPath, `{`, 400},
		"two values":       {agentsPath, `{"model":"m"} {}`, 400},
		"empty":            {agentsPath, ``, 400},
		"invalid":          {agentsPath, `{"modell":"m"}`, 400},
		"against a rule":   {agentsPath, `{"model":"m","repo_url":"http://x/y"}`, 400},
		"not found":        {unknown, `{}`, 404},
		"an ill-formed id": {agentsPath + "/%00%ff" + strings.Repeat("x", 5000) + "/session", `{}`, 404},
		"unknown skill":    {agentsPath, `{"model":"m","skill_ids":["01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"]}`, 404},
	} {
		first := s.post(t, c.path, c.body, name[:3])
		if first.status != c.status || first.replayed != "" {
			t.Errorf("%s: %+v", name, first)
		}
		s.repeat(t, c.path, c.body, name[:3], first)
	}
	if n := s.total(t, agentsPath); n != 0 {
		t.Errorf("%d agents", n)
	}

	good := `{"model":"m"}`
	call := func(body, key string, headers ...string) (int, string) {
		resp, _, e := s.call(t, http.MethodPost, agentsPath, body, append([]string{"Idempotency-Key", key}, headers...)...)
		return resp.StatusCode, e.Code
	}
	for _, refused := range []struct {
		status int
		send   func(key string) (int, string)
	}{
		{401, func(key string) (int, string) { return call(good, key, "Authorization", "Bearer x") }},
		{415, func(key string) (int, string) { return call(good, key, "Content-Type", "text/plain") }},
		{413, func(key string) (int, string) { return call(`{"model":"`+strings.Repeat("x", 16<<20)+`"}`, key) }},
	} {
		key := fmt.Sprint("key", refused.status)
		if status, code := refused.send(key); status != refused.status {
			t.Errorf("got %d %s, want %d", status, code, refused.status)
		}
		if a := s.post(t, agentsPath, good, key); a.status != 200 || a.replayed != "" {
			t.Errorf("after %d: %+v", refused.status, a)
		}
	}
}

func TestAnIllFormedKeyIsRefusedAndNotStored(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, key := range []string{"", "a b", "ä", strings.Repeat("k", 256)} {
		for range 2 {
			resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m"}`, "Idempotency-Key", key)
			refused(t, resp, e, 400, "invalid_request", "header/Idempotency-Key")
			if resp.Header.Get("Idempotency-Replayed") != "" {
				t.Errorf("%q is stored", key)
			}
		}
	}
	for _, key := range []string{strings.Repeat("k", 255), `a,b;c="%20!~`} {
		first := s.post(t, agentsPath, `{"model":"m"}`, key)
		s.repeat(t, agentsPath, `{"model":"m"}`, key, first)
	}
}

// setStatus plays the controller.
func (s *server) setStatus(t *testing.T, id, status string) {
	t.Helper()
	err := s.store.Session(t.Context(), id, func(tx *store.SessionTx) error { tx.Session.Status = status; return nil })
	if err != nil {
		t.Fatal(err)
	}
}

func TestRestartAndStopAreDoneOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		id := s.newSession(t).ID
		restart, stop := sessionPath(id)+"/restart", sessionPath(id)+"/stop"
		early := s.post(t, restart, "", "early")
		if early.status != 409 {
			t.Errorf("while creating: %+v", early)
		}
		s.setStatus(t, id, "failed")
		s.repeat(t, restart, "", "early", early)

		first := s.post(t, restart, "", "again")
		if first.status != 200 {
			t.Fatalf("%+v", first)
		}
		s.setStatus(t, id, "failed")
		s.repeat(t, restart, "", "again", first)
		if a := s.post(t, restart, "a body", "again"); a.status != 422 {
			t.Errorf("with another body: %+v", a)
		}
		if a := s.post(t, restart, strings.Repeat("x", 1<<20+1), "large"); a.status != 413 {
			t.Errorf("with a large body: %d", a.status)
		}
		sess, err := s.store.GetSession(t.Context(), id)
		if err != nil || sess.Attempt != 2 || sess.Status != "failed" {
			t.Errorf("attempt %d, %s, %v", sess.Attempt, sess.Status, err)
		}

		s.setStatus(t, id, "ready")
		stopped := s.post(t, stop, "", "again")
		s.setStatus(t, id, "ready")
		s.repeat(t, stop, "", "again", stopped)
		if sess, err := s.store.GetSession(t.Context(), id); err != nil || sess.Status != "ready" || !strings.Contains(stopped.body, `"dead"`) {
			t.Errorf("%s, %v, %+v", sess.Status, err, stopped)
		}
	})
}

// hand makes the session's oldest queued turn the running one and returns it.
func (s *server) hand(t *testing.T, sessionID string) store.Turn {
	t.Helper()
	var turn store.Turn
	err := s.store.Session(t.Context(), sessionID, func(tx *store.SessionTx) error {
		open, err := tx.OpenTurns()
		if err != nil {
			return err
		}
		turn = open[0]
		turn.Status = "handed"
		return tx.SaveTurn(&turn)
	})
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

func (s *server) abortAsked(t *testing.T, turn store.Turn) bool {
	t.Helper()
	asked, err := s.store.AbortAsked(t.Context(), turn.SessionID, turn.ID)
	if err != nil {
		t.Fatal(err)
	}
	return asked
}

func TestARepeatedAbortNeverEndsALaterTurn(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		id := s.newSession(t).ID
		path := sessionPath(id) + "/abort"
		none := s.post(t, path, "", "none")
		if none.status != 200 || none.body != "{\"aborted\":false}\n" {
			t.Fatalf("%+v", none)
		}
		for range 2 {
			if resp, body, _ := s.call(t, http.MethodPost, sessionPath(id)+"/message", `{"text":"x"}`, "Prefer", "respond-async"); resp.StatusCode != 202 {
				t.Fatal(string(body))
			}
		}
		one := s.hand(t, id)
		s.repeat(t, path, "", "none", none)
		if s.abortAsked(t, one) {
			t.Fatal("a repeat has ended a later turn")
		}

		answers := make(chan answer, 3)
		for range cap(answers) {
			go func() { answers <- s.post(t, path, "", "one") }()
		}
		eventually(t, "the end is asked for", func() bool { return s.abortAsked(t, one) })
		s.endTurn(t, id, "aborted", reply)
		two := s.hand(t, id)
		fresh := 0
		for range cap(answers) {
			a := <-answers
			if a.status != 200 || a.body != "{\"aborted\":true}\n" {
				t.Errorf("%+v", a)
			}
			if a.replayed == "" {
				fresh++
			}
		}
		s.repeat(t, path, "", "one", answer{status: 200, body: "{\"aborted\":true}\n"})
		if fresh != 1 || s.abortAsked(t, two) {
			t.Errorf("%d fresh answers; the next turn's end is asked for: %t", fresh, s.abortAsked(t, two))
		}
		if a := s.post(t, path, "x", "one"); a.status != 422 || a.code != "idempotency_key_reused" {
			t.Errorf("with another body: %+v", a)
		}
	})
}

func TestACrashOfAHandlerLeavesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		path := agentsPath + "/" + s.newAgent(t, `{"model":"m"}`).ID + "/session"
		s.settings.onPut = func(context.Context) { panic("cause-4711") }
		if a := s.post(t, path, `{"env_vars":{"A":"b"}}`, "key"); a.status != 500 || strings.Contains(a.body, "4711") {
			t.Errorf("%+v", a)
		}
		s.settings.onPut = nil
		first := s.post(t, path, `{"env_vars":{"A":"b"}}`, "key")
		if first.status != 200 || first.replayed != "" {
			t.Errorf("%+v", first)
		}
		s.repeat(t, path, `{"env_vars":{"A":"b"}}`, "key", first)
		if n := s.total(t, sessionsPath); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

func TestAClientThatLeavesInTheMiddleMayComeBack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		agent := s.newAgent(t, `{"model":"m"}`).ID
		key := "key"
		create := func(ctx context.Context) (*client.CreateSessionResponse, error) {
			return s.client.CreateSessionWithBodyWithResponse(ctx, agent, &client.CreateSessionParams{IdempotencyKey: &key}, "application/json", strings.NewReader(`{"env_vars":{"A":"b"}}`))
		}
		ctx, leave := context.WithCancel(t.Context())
		s.settings.onPut = func(ctx context.Context) {
			leave()
			<-ctx.Done()
		}
		if _, err := create(ctx); err == nil {
			t.Error("the client got an answer")
		}
		eventually(t, "the log has the client's leaving", func() bool { return strings.Contains(s.logs.String(), `"status":499`) })
		s.settings.onPut = nil
		if n := s.total(t, sessionsPath); n != 0 || len(s.settings.all()) != 0 {
			t.Errorf("%d sessions, settings %v", n, s.settings.all())
		}
		first, err := create(t.Context())
		if err != nil || first.JSON200 == nil || first.HTTPResponse.Header.Get("Idempotency-Replayed") != "" {
			t.Fatalf("%+v, %v", first, err)
		}
		again, err := create(t.Context())
		if err != nil || !reflect.DeepEqual(again.JSON200, first.JSON200) || again.HTTPResponse.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func TestAKeyIsFreeAgainAfterADay(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		s := serveOn(t, storetest.OpenWith(t, o))
		first := s.post(t, agentsPath, `{"model":"m"}`, "key")
		age := func(d time.Duration) {
			storetest.Exec(t, o, fmt.Sprintf("UPDATE answers SET created_at = %d", time.Now().Add(-d).UnixMilli()))
		}
		age(23*time.Hour + 59*time.Minute)
		s.repeat(t, agentsPath, `{"model":"m"}`, "key", first)
		age(24 * time.Hour)
		next := s.post(t, agentsPath, `{"model":"other"}`, "key")
		if next.status != 200 || next.replayed != "" || idOf(t, next.body) == idOf(t, first.body) {
			t.Errorf("%+v", next)
		}
		s.repeat(t, agentsPath, `{"model":"other"}`, "key", next)
	})
}
