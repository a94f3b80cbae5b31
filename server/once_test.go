package main_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestRequestsRepeatedAfterAKillAreDoneOnce(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		s := newServer(t, kind)
		const clients, enough = 8, 100
		var mu sync.Mutex            // guards known
		known := map[string]string{} // key to agent, of answers that arrived before the kill
		var begun, answered atomic.Int32
		create := func(key string) (client.Agent, bool, error) {
			r, err := s.api.CreateAgentWithResponse(t.Context(), &client.CreateAgentParams{IdempotencyKey: &key},
				client.AgentCreate{Model: "m", Name: nullable.NewNullableWithValue(key)})
			if err != nil {
				return client.Agent{}, false, err
			}
			if r.JSON200 == nil {
				return client.Agent{}, false, fmt.Errorf("%d %s", r.StatusCode(), r.Body)
			}
			return *r.JSON200, r.HTTPResponse.Header.Get("Idempotency-Replayed") == "true", nil
		}
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for {
					key := fmt.Sprint("key-", begun.Add(1))
					a, replayed, err := create(key)
					if err != nil {
						return // the server was killed
					}
					if replayed {
						t.Errorf("%s is new and was answered before", key)
					}
					mu.Lock()
					known[key] = a.ID
					mu.Unlock()
					if answered.Add(1) == enough {
						s.kill()
					}
				}
			})
		}
		wg.Wait()
		s.start()
		ids := map[string]bool{}
		for i := range begun.Load() {
			key := fmt.Sprint("key-", i+1)
			a, replayed, err := create(key)
			if err != nil {
				t.Fatal(err)
			}
			if id, ok := known[key]; ok && (!replayed || id != a.ID) || a.Name.MustGet() != key {
				t.Errorf("%s: replayed %t, agent %s, was %s", key, replayed, a.ID, id)
			}
			ids[a.ID] = true
		}
		list, err := s.api.ListAgentsWithResponse(t.Context(), nil)
		if err != nil || list.JSON200 == nil {
			t.Fatalf("%+v, %v", list, err)
		}
		if n := list.JSON200.Total.MustGet(); n != int64(begun.Load()) || len(ids) != int(n) {
			t.Errorf("%d agents of %d requests", n, begun.Load())
		}
	})
}
