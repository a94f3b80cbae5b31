package contract_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/contract"
)

func newGenerator(t *testing.T, seed uint64) (*contract.Generator, *openapi3.T) {
	t.Helper()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	return contract.NewGenerator(doc, rand.New(rand.NewPCG(seed, 0)), contract.GeneratorOptions{Key: "a key", Marker: "marker", Secret: "secret"}), doc
}

// teach lets a generator believe that its requests have made something.
func teach(g *contract.Generator, r *contract.Request, n int) {
	id := fmt.Sprintf("01932c07-8f3e-7c4a-9b1d-%012x", n)
	status, body := http.StatusOK, map[string]any{"id": id, "session_id": r.IDs["session_id"]}
	switch r.Operation {
	case "createSkill":
		status = http.StatusCreated
	case "sendMessage":
		status = http.StatusAccepted
	case "createAgent", "createSession":
	default:
		return
	}
	b, _ := json.Marshal(body)
	g.Learn(r, status, http.Header{"Etag": {`"1"`}}, b)
}

func TestGeneratedBodiesAreWhatTheySay(t *testing.T) {
	t.Parallel()
	g, doc := newGenerator(t, 1)
	bodies := map[string]*openapi3.Schema{}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				bodies[op.OperationID] = op.RequestBody.Value.Content["application/json"].Schema.Value
			}
		}
	}
	rules := []string{"type", "null", "enum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "minimum", "maximum", "integer", "required", "unknown field"}
	seen, operations := map[string]int{}, map[string]int{}
	for n := range 20_000 {
		r := g.Next()
		teach(g, r, n)
		operations[r.Operation]++
		for _, f := range r.Flaws {
			seen[f.Rule]++
		}
		schema := bodies[r.Operation]
		if schema == nil || len(r.Body) == 0 || r.Repeats != nil || len(r.Flaws) > 0 && !slices.Contains(rules, r.Flaws[0].Rule) {
			continue
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(r.Body))
		if d.UseNumber(); d.Decode(&v) != nil {
			t.Fatalf("%s: no JSON: %q", r.Operation, r.Body)
		}
		err := schema.VisitJSON(v, openapi3.VisitAsRequest(), openapi3.MultiErrors())
		if (err == nil) != (len(r.Flaws) == 0) {
			t.Fatalf("%s %s\n%+v: %v", r.Operation, r.Body, r.Flaws, err)
		}
	}
	for _, rule := range append(rules, "key", "unknown id", "If-Match form", "If-Match stale", "content type", "body size", "parameter", "base64", "rule", "JSON", "unknown path", "unknown method", "unknown skill") {
		if seen[rule] == 0 {
			t.Errorf("no request breaks %q", rule)
		}
	}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if operations[op.OperationID] == 0 {
				t.Errorf("no request to %s", op.OperationID)
			}
		}
	}
}

func TestTheSameSeedGivesTheSameRequests(t *testing.T) {
	t.Parallel()
	a, _ := newGenerator(t, 2)
	b, _ := newGenerator(t, 2)
	for n := range 1000 {
		x, y := a.Next(), b.Next()
		teach(a, x, n)
		teach(b, y, n)
		if x.Method != y.Method || x.Path != y.Path || !bytes.Equal(x.Body, y.Body) || fmt.Sprint(x.Header) != fmt.Sprint(y.Header) {
			t.Fatalf("request %d: %+v and %+v", n, x, y)
		}
	}
}

// A message that is refused does not take its key; a repeat that is accepted does, and is what later ones repeat.
func TestARepeatThatIsAcceptedIsTheFirst(t *testing.T) {
	t.Parallel()
	g, _ := newGenerator(t, 2)
	var first, accepted *contract.Request
	for n := range 200_000 {
		r := g.Next()
		switch repeats := r.Operation == "sendMessage" && r.Repeats != nil; {
		case accepted != nil && repeats && r.Header.Get("Idempotency-Key") == accepted.Header.Get("Idempotency-Key"):
			if r.Repeats.Status != http.StatusAccepted || !bytes.Equal(r.Repeats.Request.Body, accepted.Body) {
				t.Errorf("it repeats a request that was answered %d, want the accepted one", r.Repeats.Status)
			}
			return
		case first == nil && r.Operation == "sendMessage" && r.Repeats == nil && len(r.Flaws) == 0 && r.Header.Get("Idempotency-Key") != "":
			first = r
			g.Learn(r, http.StatusNotFound, http.Header{}, []byte(`{"code":"session_not_ready"}`))
		case accepted == nil && repeats && r.Repeats.Request == first:
			accepted = r
			g.Learn(r, http.StatusAccepted, http.Header{}, []byte(`{}`))
		case first == nil:
			teach(g, r, n)
		}
	}
	t.Fatal("no such repeat came")
}
