package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func benchEach(b *testing.B, fn func(b *testing.B, s *store.Store)) {
	for _, kind := range []string{storetest.KindSQLite, storetest.KindPostgres} {
		b.Run(kind, func(b *testing.B) {
			s := storetest.Open(b, kind)
			b.ReportAllocs()
			fn(b, s)
		})
	}
}

func benchAgent(b *testing.B, s *store.Store) store.Agent {
	a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{
		Model: "m", Prompt: ptr(strings.Repeat("p", 1500)), EnvVars: map[string]string{"A": strings.Repeat("v", 200)},
		MCPServers: []string{"https://a", "https://b"}, AllowOut: []string{"a.example", "b.example"},
	}}
	if err := s.CreateAgent(b.Context(), &a); err != nil {
		b.Fatal(err)
	}
	return a
}

func BenchmarkGetAgent(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		a := benchAgent(b, s)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.GetAgent(b.Context(), a.ID); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkCreateAgent(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		for b.Loop() {
			benchAgent(b, s)
		}
	})
}

func BenchmarkListAgents50(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		for range 100 {
			benchAgent(b, s)
		}
		for b.Loop() {
			if page, err := s.ListAgents(b.Context(), store.AgentQuery{}, store.PageRequest{Limit: 50}); err != nil || len(page.Rows) != 50 {
				b.Fatal(len(page.Rows), err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, sessions := range []int{1, 16} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			benchEach(b, func(b *testing.B, s *store.Store) {
				a, ids := benchAgent(b, s), make(chan string, sessions)
				for range sessions {
					sess := store.Session{AgentID: a.ID}
					if err := s.CreateSession(b.Context(), &sess, nil); err != nil {
						b.Fatal(err)
					}
					ids <- sess.ID
				}
				b.SetParallelism(max(sessions/2, 1))
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						id := <-ids
						if err := s.Session(b.Context(), id, appendOne("x")); err != nil {
							b.Error(err)
						}
						ids <- id
					}
				})
			})
		})
	}
}
