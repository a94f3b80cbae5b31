package api_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// post is the head of a request that creates an agent.
func post(length string) string {
	return "POST " + agentsPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + masterKey +
		"\r\n" + length + "\r\n"
}

// padded is the body of a request that creates an agent.
func padded(n int) string {
	const body = `{"model":"m"}`
	return body + strings.Repeat(" ", n-len(body))
}

func TestLargeBodiesWithoutRoomAreRefusedAndSmallOnesNeverWait(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *api.Options, _ *session.Options) { o.BusyTimeout = 50 * time.Millisecond })
	var holders []*wire
	for range 8 {
		w := dial(t, s.url)
		w.send("%s", post("Expect: 100-continue\r\nContent-Length: 16777216\r\n"))
		if got := w.status(); got != http.StatusContinue {
			t.Fatalf("got %d", got)
		}
		holders = append(holders, w)
	}
	for name, c := range map[string]struct {
		body    io.Reader
		refused bool
	}{
		"small":          {strings.NewReader(padded(64 << 10)), false},
		"large":          {strings.NewReader(padded(64<<10 + 1)), true},
		"small, chunked": {io.MultiReader(strings.NewReader(padded(64<<10 - 1))), false},
		"large, chunked": {io.MultiReader(strings.NewReader(padded(64<<10 + 1))), true},
	} {
		resp, err := s.client.CreateAgentWithBodyWithResponse(t.Context(), nil, "application/json", c.body)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !c.refused && resp.StatusCode() != 200:
			t.Errorf("%s: %s", name, resp.Body)
		case c.refused && (resp.JSON503 == nil || resp.JSON503.Code != "server_busy" || resp.HTTPResponse.Header.Get("Retry-After") == ""):
			t.Errorf("%s: %d %s", name, resp.StatusCode(), resp.Body)
		}
	}
	_ = holders[0].Close()
	for _, body := range []func() io.Reader{
		func() io.Reader { return strings.NewReader(padded(15_000_000)) },
		func() io.Reader { return io.MultiReader(strings.NewReader(padded(100_000))) },
	} {
		eventually(t, "the place of a client that left is free", func() bool {
			resp, err := s.client.CreateAgentWithBodyWithResponse(t.Context(), nil, "application/json", body())
			return err == nil && resp.StatusCode() == 200
		})
	}
}

func TestAMessageThatWaitsForItsTurnTakesNoRoomFromOthers(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *api.Options, _ *session.Options) { o.BusyTimeout, o.BodyRoom = 50*time.Millisecond, 3<<20 })
	sess := s.newSession(t)
	image := `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + strings.Repeat("AAAA", 1<<20/3) + `"}}`
	body := `{"parts":[` + image + "," + image + `]}`
	for range 2 { // the second would not fit beside the first
		if resp, b, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", body, "Prefer", "respond-async"); resp.StatusCode != 202 {
			t.Fatalf("%d %s", resp.StatusCode, b)
		}
	}
	waiting := make(chan int, 2)
	for n := range 2 {
		go func() {
			resp, _, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", body)
			waiting <- resp.StatusCode
		}()
		eventually(t, "the turn is queued", func() bool { return s.openTurns(t, sess.ID) == 3+n })
	}
	for range 4 {
		s.endTurn(t, sess.ID, session.TurnCompleted, reply)
	}
	for range 2 {
		if got := <-waiting; got != 200 {
			t.Errorf("got %d", got)
		}
	}
}

func TestLargeBodiesAreWorkedOnAFewAtATime(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *api.Options, _ *session.Options) { o.BusyTimeout = 50 * time.Millisecond })
	answers := make(chan int, 3)
	err := s.store.InTx(t.Context(), func(*store.Store) error { // the handlers wait for the only writer
		for range 3 {
			go func() {
				resp, _, _ := s.call(t, http.MethodPost, agentsPath, padded(15_000_000))
				answers <- resp.StatusCode
			}()
		}
		if got := <-answers; got != 503 {
			t.Errorf("got %d", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := <-answers; got != 200 {
			t.Errorf("got %d", got)
		}
	}
}

func (s *server) openTurns(t *testing.T, sessionID string) (n int) {
	t.Helper()
	err := s.store.Session(t.Context(), sessionID, func(tx *store.SessionTx) error {
		open, err := tx.OpenTurns()
		n = len(open)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
