package session

import (
	"testing"

	"github.com/litellm-agent-platform/lap/store"
)

// Who waits for the end of a turn looks again now and then, so that a word that was lost delays it only: nothing else would show it.
func TestWatchersHearOfAllButProgress(t *testing.T) {
	t.Parallel()
	h := newHub(nil, nil)
	changed, cancel := h.watch("one")
	defer cancel()
	for _, c := range []struct {
		change store.Change
		heard  bool
	}{
		{store.Change{SessionID: "one", Extent: store.OnlyProgress}, false}, {store.Change{SessionID: "one", Extent: store.OnlyTurns}, true},
		{store.Change{SessionID: "one", Extent: store.OnlyEnds}, true},
		{store.Change{SessionID: "one"}, true},
		{store.Change{SessionID: "two"}, false}, {store.Change{}, true},
	} {
		h.notify(c.change)
		heard := len(changed) > 0
		for len(changed) > 0 {
			<-changed
		}
		if heard != c.heard {
			t.Errorf("%+v is heard: %v", c.change, heard)
		}
	}
}
