package session

import (
	"time"

	"github.com/litellm-agent-platform/lap/store"
)

// Subscribers counts those of a session that keep up.
func Subscribers(s *Service, id string) int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if t := s.hub.topics[id]; t != nil {
		return len(t.subs)
	}
	return 0
}

// ExpireOne does to a session that a sweep listed what the sweep does to it.
func ExpireOne(tx *store.SessionTx, before time.Time, kept time.Duration) error {
	return expire(tx, before, kept)
}

// Missed is how a diagnosis words why a part is missing.
func Missed(err error) string {
	d := &Diagnosis{}
	d.miss("part", err)
	return d.Missing[0].Message
}
