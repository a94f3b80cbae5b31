package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
)

func TestTheCacheIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	var c agentCache
	body := []byte(strings.Repeat("b", 100<<10))
	used := agentKey{"used", 1}
	c.put(used, body)
	for i := range 1000 {
		c.put(agentKey{fmt.Sprint(i), 1}, body)
		if c.get(used) == nil {
			t.Fatalf("dropped after %d others, though it was used", i)
		}
		if held := (len(c.recent) + len(c.older)) * len(body); held > 2*cacheBytes {
			t.Fatalf("%d bytes are held", held)
		}
	}
	if c.get(agentKey{"0", 1}) != nil || c.get(agentKey{"used", 2}) != nil || c.get(agentKey{"999", 1}) == nil {
		t.Error("it does not hold the last ones")
	}
	c.put(agentKey{"large", 1}, make([]byte, cachedBytes+1))
	if c.get(agentKey{"large", 1}) != nil {
		t.Error("a large answer is held")
	}
	rows := []store.AgentRow{{Agent: store.Agent{ID: "used", Version: 1}}}
	for i := range cacheMisses + 1 {
		if c.lacks(rows) {
			t.Errorf("%d misses are read at once", i)
		}
		rows = append(rows, store.AgentRow{Agent: store.Agent{ID: fmt.Sprint("missing", i), Version: 1}})
	}
	if !c.lacks(rows) {
		t.Error("many misses are read one by one")
	}
}
