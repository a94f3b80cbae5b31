package chaos_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// steer keeps as many sessions as there shall be, and stops, restarts, deletes and aborts at random until steering ends.
func (w *world) steer(steering, life context.Context, random *rand.Rand) {
	for pause(steering, time.Duration(200+random.IntN(1000))*time.Millisecond) {
		w.mu.Lock()
		missing := len(w.subjects) < w.o.sessions
		w.mu.Unlock()
		if missing {
			w.open(steering, life, random)
			continue
		}
		s := w.anySubject(random)
		if s == nil {
			continue
		}
		status := w.status(steering, s)
		switch n := random.IntN(100); {
		case status == "failed" || status == "dead":
			if n < 80 {
				w.restart(life, s)
			} else {
				w.drop(life, s)
			}
		case n < 25:
			w.abort(life, s)
		case n < 32:
			w.stop(life, s)
		case n < 42:
			w.restart(life, s)
		case n < 46:
			w.drop(life, s)
		}
	}
}

// insist calls until the answer is clear, and returns its status.
func (w *world) insist(life context.Context, what, session string, call func(ctx context.Context) (int, []byte, error)) int {
	for {
		ctx, cancel := context.WithTimeout(life, 40*time.Second)
		status, body, err := call(ctx)
		cancel()
		if err == nil && status < 500 {
			w.note("%s %s: %d", what, session, status)
			w.count(fmt.Sprintf("%s %d", what, status))
			return status
		}
		w.note("%s %s: %d %s %v", what, session, status, body, err)
		if status == http.StatusInternalServerError {
			w.note("ANSWER 500 to %s: %s", what, body)
		}
		if !pause(life, 200*time.Millisecond) {
			w.violated(session, violation{"stuck", fmt.Sprintf("%s got no clear answer: %d %s %v", what, status, body, err)})
			return 0
		}
	}
}

func (w *world) newKey() *string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages++
	key := fmt.Sprintf("chaos-call-%d", w.messages)
	return &key
}

func (w *world) makeAgent(life context.Context) {
	key := w.newKey()
	w.insist(life, "create agent", "", func(ctx context.Context) (int, []byte, error) {
		r, err := w.api.CreateAgentWithResponse(ctx, &client.CreateAgentParams{IdempotencyKey: key}, client.AgentCreate{Model: "demo/echo"})
		if err != nil {
			return 0, nil, err
		}
		if r.JSON200 != nil {
			w.agent = r.JSON200.ID
		}
		return r.StatusCode(), r.Body, nil
	})
}

func (w *world) open(steering, life context.Context, random *rand.Rand) {
	key, s := w.newKey(), &subject{tires: random.IntN(3) == 0}
	body := client.SessionCreate{}
	if random.IntN(2) == 0 {
		m := w.newMessage(random, s)
		m.key, m.picture, m.accepted = "", false, true // it is stored with the session, or there is no session
		body.InitialPrompt = nullable.NewNullableWithValue(m.text)
	}
	if random.IntN(2) == 0 {
		body.EnvVars = nullable.NewNullableWithValue(map[string]string{"CHAOS": "yes"})
	}
	status := w.insist(life, "create session", "", func(ctx context.Context) (int, []byte, error) {
		r, err := w.api.CreateSessionWithResponse(ctx, w.agent, &client.CreateSessionParams{IdempotencyKey: key}, body)
		if err != nil {
			return 0, nil, err
		}
		if r.JSON200 != nil {
			s.id = r.JSON200.ID
		}
		return r.StatusCode(), r.Body, nil
	})
	if status != http.StatusOK {
		w.violated("", violation{"refused", fmt.Sprintf("a session cannot be created: %d", status)})
		return
	}
	w.subscribe(s, random.Uint64())
	if s.tires {
		w.tire(steering, s, 500+random.IntN(1500))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subjects = append(w.subjects, s)
}

// tire gives a session a shorter idle timeout than the API allows, for that is longer than a round. The database may be away.
func (w *world) tire(ctx context.Context, s *subject, ms int) {
	driver, dsn := "sqlite", "file:"+filepath.Join(w.data, "lap.db")+"?_pragma=busy_timeout(5000)"
	if w.pg != nil {
		driver, dsn = "pgx", w.pg.DSN()
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	db, err := sql.Open(driver, dsn)
	if err == nil {
		_, err = db.ExecContext(ctx, fmt.Sprintf("UPDATE sessions SET idle_timeout_ms = %d WHERE id = '%s'", ms, s.id))
		_ = db.Close()
	}
	w.note("tire %s after %d ms: %v", s.id, ms, err)
}

// status is what a session's status is, empty if that cannot be learned now.
func (w *world) status(ctx context.Context, s *subject) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := w.api.GetSessionWithResponse(ctx, s.id)
	if err != nil || r.JSON200 == nil {
		return ""
	}
	return string(r.JSON200.Status)
}

func (s *subject) demandEnd(end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustEnd = end
}

func (w *world) stop(life context.Context, s *subject) {
	defer w.doing("stop", s.id)()
	key := w.newKey()
	status := w.insist(life, "stop", s.id, func(ctx context.Context) (int, []byte, error) {
		r, err := w.api.StopSessionWithResponse(ctx, s.id, &client.StopSessionParams{IdempotencyKey: key})
		if err != nil {
			return 0, nil, err
		}
		return r.StatusCode(), r.Body, nil
	})
	if status == http.StatusOK {
		s.demandEnd(true) // steer alone stops and restarts
	}
}

func (w *world) restart(life context.Context, s *subject) {
	defer w.doing("restart", s.id)()
	s.demandEnd(false)
	key := w.newKey()
	w.insist(life, "restart", s.id, func(ctx context.Context) (int, []byte, error) {
		r, err := w.api.RestartSessionWithResponse(ctx, s.id, &client.RestartSessionParams{IdempotencyKey: key})
		if err != nil {
			return 0, nil, err
		}
		return r.StatusCode(), r.Body, nil
	})
}

func (w *world) abort(life context.Context, s *subject) {
	defer w.doing("abort", s.id)()
	key := w.newKey()
	w.insist(life, "abort", s.id, func(ctx context.Context) (int, []byte, error) {
		r, err := w.api.AbortTurnWithResponse(ctx, s.id, &client.AbortTurnParams{IdempotencyKey: key})
		if err != nil {
			return 0, nil, err
		}
		return r.StatusCode(), r.Body, nil
	})
}

// drop deletes a session; clients that already talk to it go on.
func (w *world) drop(life context.Context, s *subject) {
	defer w.doing("delete", s.id)()
	s.mu.Lock()
	s.mustEnd = true
	s.mu.Unlock()
	w.insist(life, "delete", s.id, func(ctx context.Context) (int, []byte, error) {
		r, err := w.api.DeleteSessionWithResponse(ctx, s.id)
		if err != nil {
			return 0, nil, err
		}
		return r.StatusCode(), r.Body, nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subjects = slices.DeleteFunc(w.subjects, func(other *subject) bool { return other == s })
	w.dropped = append(w.dropped, s)
}
