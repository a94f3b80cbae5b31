package api

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/litellm-agent-platform/lap/store"
)

const (
	cacheBytes  = 8 << 20   // of one generation; there are two
	cachedBytes = 128 << 10 // of the largest answer that is kept
	cacheMisses = 4         // beyond which a page is read at once
)

// agentCache keeps versions of agents as they are answered, with secrets masked. A version never changes, so what is in it is never
// out of date; whether an agent still has the version, and exists, is asked from the database each time. When a generation is full
// it becomes the older one, whose answers are dropped unless they are used again.
type agentCache struct {
	mu            sync.Mutex
	recent, older map[agentKey][]byte
	size          int // of recent
}

type agentKey struct {
	id      string
	version int32
}

// get returns nil for what is not kept.
func (c *agentCache) get(k agentKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	body := c.recent[k]
	if body == nil {
		if body = c.older[k]; body != nil {
			c.add(k, body)
		}
	}
	return body
}

func (c *agentCache) put(k agentKey, body []byte) {
	if len(body) > cachedBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(k, body)
}

func (c *agentCache) add(k agentKey, body []byte) {
	if c.recent[k] != nil {
		return
	}
	if c.recent == nil || c.size+len(body) > cacheBytes {
		c.older, c.recent, c.size = c.recent, map[agentKey][]byte{}, 0
	}
	c.recent[k] = body
	c.size += len(body)
}

// lacks tells whether it is cheaper to read the rows at once than one by one.
func (c *agentCache) lacks(rows []store.AgentRow) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	missing := 0
	for i := range rows {
		k := agentKey{rows[i].ID, rows[i].Version}
		if c.recent[k] == nil && c.older[k] == nil {
			missing++
		}
	}
	return missing > cacheMisses
}

// encodedAgent answers with a version of an agent.
type encodedAgent struct {
	body    []byte
	version int32
}

// written is the answer to a change. It is not kept: the transaction it was made in may still fail.
func written(a store.Agent) (encodedAgent, error) {
	body, err := encode(agentAnswer(a))
	return encodedAgent{body, a.Version}, err
}

// VisitCreateAgentResponse writes the agent.
func (a encodedAgent) VisitCreateAgentResponse(w http.ResponseWriter) error {
	return a.VisitGetAgentResponse(w)
}

// VisitUpdateAgentResponse writes the agent.
func (a encodedAgent) VisitUpdateAgentResponse(w http.ResponseWriter) error {
	return a.VisitGetAgentResponse(w)
}

// VisitGetAgentResponse writes the agent.
func (a encodedAgent) VisitGetAgentResponse(w http.ResponseWriter) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(a.body)+1))
	h.Set("ETag", *etag(a.version))
	if _, err := w.Write(a.body); err != nil {
		return err
	}
	_, err := w.Write([]byte("\n"))
	return err
}
