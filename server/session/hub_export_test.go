package session

// Subscribers counts those of a session that keep up.
func Subscribers(s *Service, id string) int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if t := s.hub.topics[id]; t != nil {
		return len(t.subs)
	}
	return 0
}
