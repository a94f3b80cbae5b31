package api_test

import (
	"testing"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestEgressOfASessionThatWantedNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s, id := serveBox(t, st, &box{}, `{"model":"m"}`, `{}`)
		got, err := s.client.GetSessionEgressWithResponse(t.Context(), id)
		if err != nil || got.JSON200 == nil {
			t.Fatalf("%v %s", err, got.Body)
		}
		if r := got.JSON200; r.SessionID != id || r.Attempt != 1 || r.Enforcement != "off" || r.Decisions == nil || len(r.Decisions) > 0 {
			t.Errorf("got %s", got.Body)
		}
		none, err := s.client.GetSessionEgressWithResponse(t.Context(), "01932c07-a0b1-7c22-9d33-4e5f60718293")
		if err != nil || none.JSON404 == nil {
			t.Errorf("a session that never was: %v %s", err, none.Body)
		}
	})
}
