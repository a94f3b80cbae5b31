package demo

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// Key is a generated key. It never holds the key itself.
type Key struct {
	Alias     string
	Models    []string
	MaxBudget float64
	Metadata  map[string]string
}

type key struct {
	Key
	hash [sha256.Size]byte
}

type aliasKey struct{}

// NewManaged returns a gateway that accepts only the keys that the holder of its master key generates, as LiteLLM does.
func NewManaged(master string) *Gateway {
	g := New("")
	g.keys = map[string]key{}
	hash := sha256.Sum256([]byte(master))
	managed := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !g.holds(r, hash) {
				writeError(w, http.StatusForbidden, "[demo] only the holder of the master key may do that")
				return
			}
			next(w, r)
		}
	}
	g.mux.HandleFunc("POST /key/generate", managed(g.generateKey))
	g.mux.HandleFunc("POST /key/delete", managed(g.deleteKeys))
	return g
}

// Keys returns the generated keys in the order of their aliases.
func (g *Gateway) Keys() []Key {
	g.mu.Lock()
	defer g.mu.Unlock()
	var keys []Key
	for _, k := range g.keys {
		keys = append(keys, k.Key)
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Alias, b.Alias) })
	return keys
}

func (g *Gateway) generateKey(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Key       string            `json:"key"`
		Alias     string            `json:"key_alias"`
		Models    []string          `json:"models"`
		MaxBudget float64           `json:"max_budget"`
		Metadata  map[string]string `json:"metadata"`
	}
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body) != nil || len(body.Key) < 8 || body.Key[:3] != "sk-" {
		writeError(w, http.StatusBadRequest, "[demo] a key begins with sk-")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.keys[body.Alias]; ok {
		writeError(w, http.StatusBadRequest, "[demo] there is a key of that alias")
		return
	}
	g.keys[body.Alias] = key{Key{body.Alias, body.Models, body.MaxBudget, body.Metadata}, sha256.Sum256([]byte(body.Key))}
	writeJSON(w, http.StatusOK, map[string]any{"key": body.Key, "key_alias": body.Alias})
}

func (g *Gateway) deleteKeys(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Aliases []string `json:"key_aliases"`
	}
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body) != nil {
		writeError(w, http.StatusBadRequest, "[demo] which keys?")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	deleted := []string{}
	for _, alias := range body.Aliases {
		if _, ok := g.keys[alias]; ok {
			delete(g.keys, alias)
			deleted = append(deleted, alias)
		}
	}
	if len(deleted) == 0 {
		writeError(w, http.StatusNotFound, "[demo] there is no such key")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"deleted_keys": deleted})
}

// generated returns the alias of the generated key that a request comes with.
func (g *Gateway) generated(r *http.Request) (alias string, ok bool) {
	sum, bearer := bearerHash(r)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.keys {
		if bearer && k.hash == sum {
			return k.Alias, true
		}
	}
	return "", false
}
