package agent

import (
	"context"
	"slices"
	"time"
)

// phases that sandboxd reports, in order; an attempt only goes forward.
var phases = []string{
	"injecting_files", "cloning_repo", "installing_deps", "waiting_harness", "harness_listening", "harness_ready", "ready",
}

type phaseData struct {
	Phase  string `json:"phase"`
	Detail string `json:"detail"`
}

// setPhase records a phase, or the current one with another detail. One that lies behind is ignored: a harness that is started
// again goes through its own once more.
func (s *session) setPhase(phase, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setPhaseLocked(phase, detail)
}

func (s *session) setPhaseLocked(phase, detail string) {
	rank := slices.Index(phases, phase)
	if rank < s.phase {
		return
	}
	s.phase = rank
	if err := s.events.append(typePhase, "", phaseData{Phase: phase, Detail: *cut(&detail, maxMessage)}); err != nil {
		s.log.Error("record was lost", "type", typePhase, "err", err)
	}
}

// ready announces that turns may come. detail is kept as the last phase's.
func (s *session) ready(ctx context.Context, harnessSession, conversation, detail string) {
	s.setPhase(phases[len(phases)-1], detail)
	s.conclude(ctx, stateReady, typeReady, "", map[string]string{"harness_session_id": harnessSession, "conversation": conversation})
}

// conclude appends a record that must not be lost and sets the state it stands for, in one step for every caller. While the disk
// takes nothing it goes on trying; it gives up only when ctx has ended. An empty state leaves it as it is.
func (s *session) conclude(ctx context.Context, state, typ, turnID string, data any) {
	for !s.tryConclude(state, typ, turnID, data) {
		select {
		case <-ctx.Done():
			s.tryConclude(state, typ, turnID, data)
			return
		case <-time.After(time.Second):
		}
	}
}

func (s *session) tryConclude(state, typ, turnID string, data any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.events.append(typ, turnID, data); err != nil {
		s.log.Error("record could not be written", "type", typ, "turn_id", turnID, "err", err)
		return false
	}
	if turnID != "" {
		s.current, s.aborted = "", false
	}
	if state != "" && s.state != stateStopping {
		s.state = state
	}
	return true
}
