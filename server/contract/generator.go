package contract

import (
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"
)

// GeneratorOptions say what generated requests carry.
type GeneratorOptions struct {
	Key    string // bearer token of good requests
	Marker string // put into every text that is sent, keys and ids excepted, so that a leak is found by a search
	Secret string // put into every value of an environment
	Run    string // begins every Idempotency-Key, so that runs against one server do not share them; at most 64 characters
	Large  bool   // whether to send bodies of some MiB, now and then
	// Ends tells whether a good request is answered without more being done, such as one that waits for a turn; nil: each is.
	Ends func(*Request) bool
}

// Generator makes random requests from an OpenAPI document: good ones, and ones with faults that it names. It takes operations,
// parameters and bodies from the document; what only descriptions say is in generator_rules.go. It learns the objects that it may
// name from the answers it is shown. The same source of randomness and the same answers give the same requests. It belongs to one
// goroutine.
type Generator struct {
	*rand.Rand
	o       GeneratorOptions
	ops     []*endpoint
	paths   map[string][]string // methods by path
	objects map[string][]*Object
	gone    map[string][]string // ids of deleted objects by kind
	keyed   []*Exchange
	cursors map[string][]string // by operation and order
	target  *Object             // of the request at hand
	made    int                 // Idempotency-Keys
	size    int                 // characters that the body at hand may still get
}

// Object is something that the API made.
type Object struct {
	Kind string // agent, skill, session, turn
	ID   string
	ETag string            // as last seen, empty if that is not known
	IDs  map[string]string // values of path parameters that lead to it
	Body map[string]any    // as last seen
}

// Request is a generated request.
type Request struct {
	Operation    string // operationId; empty if the document has no such path or method
	Method, Path string // the path with its query
	Header       http.Header
	Body         []byte
	Value        any               // what Body says; nil if it is not JSON
	IDs          map[string]string // path parameters by name
	Query        map[string]string
	Flaws        []Flaw    // empty: nothing is wrong with it
	Repeats      *Exchange // the request whose Idempotency-Key it has
}

// Flaw is a fault of a request, and the answer it must get.
type Flaw struct {
	Rule   string
	Field  string // as details name it; empty is the whole body
	Status int
	Code   string
}

// Exchange is a request and its answer.
type Exchange struct {
	Request *Request
	Status  int
	Header  http.Header
	Body    []byte
}

// endpoint is an operation of the document.
type endpoint struct {
	id, method, path string
	params           []*openapi3.Parameter // in query and header
	kinds            []string              // of the objects its path names
	body             *openapi3.SchemaRef
	required         bool
	limit            int // bytes of the body
	anonymous        bool
	answers          openapi3.Responses
	weight           int
}

var bodyLimit = regexp.MustCompile(`Body limit (\d+) MiB`)

// NewGenerator returns a generator of requests to the operations of doc.
func NewGenerator(doc *openapi3.T, rnd *rand.Rand, o GeneratorOptions) *Generator {
	g := &Generator{
		Rand: rnd, o: o, paths: map[string][]string{}, objects: map[string][]*Object{}, gone: map[string][]string{}, cursors: map[string][]string{},
	}
	for _, path := range doc.Paths.InMatchingOrder() {
		item := doc.Paths.Value(path)
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete} {
			if op := item.GetOperation(method); op != nil {
				e := newEndpoint(path, method, item, op)
				g.paths[path] = append(g.paths[path], method)
				g.ops = append(g.ops, slices.Repeat([]*endpoint{e}, e.weight)...)
			}
		}
	}
	return g
}

func newEndpoint(path, method string, item *openapi3.PathItem, op *openapi3.Operation) *endpoint {
	e := &endpoint{id: op.OperationID, method: method, path: path, limit: 1 << 20, answers: *op.Responses, weight: 4}
	e.anonymous = op.Security != nil && len(*op.Security) == 0
	for _, m := range regexp.MustCompile(`\{(\w+)_id\}`).FindAllStringSubmatch(path, -1) {
		e.kinds = append(e.kinds, m[1])
	}
	for _, p := range slices.Concat(item.Parameters, op.Parameters) {
		if p.Value.In != openapi3.ParameterInPath {
			e.params = append(e.params, p.Value)
		}
	}
	if op.RequestBody != nil {
		e.body, e.required = op.RequestBody.Value.Content["application/json"].Schema, op.RequestBody.Value.Required
	}
	if m := bodyLimit.FindStringSubmatch(op.Description); m != nil {
		n, _ := strconv.Atoi(m[1])
		e.limit = n << 20
	}
	switch {
	case e.anonymous:
		e.weight = 1
	case method == http.MethodPost && e.body != nil, method == http.MethodPatch:
		e.weight = 12
	}
	return e
}

func (g *Generator) chance(p float64) bool { return g.Float64() < p }

func pick[T any](g *Generator, list []T) T { return list[g.IntN(len(list))] }

// Next returns another request.
func (g *Generator) Next() *Request {
	for {
		if r := g.draw(); r != nil && (len(r.Flaws) > 0 || g.o.Ends == nil || g.o.Ends(r)) {
			return r
		}
	}
}

func (g *Generator) draw() *Request {
	switch {
	case g.chance(0.01):
		return g.unrouted()
	case len(g.keyed) > 0 && g.chance(0.05):
		return g.repeat()
	}
	return g.request(pick(g, g.ops))
}

// request returns nil if there is no object yet that the operation could be about.
func (g *Generator) request(op *endpoint) *Request {
	r := &Request{Operation: op.id, Method: op.method, Header: http.Header{}, Query: map[string]string{}, IDs: map[string]string{}}
	var target *Object
	if n := len(op.kinds); n > 0 {
		list := g.objects[op.kinds[n-1]]
		if len(list) == 0 {
			return nil
		}
		target = pick(g, list)
		for name, id := range target.IDs {
			r.IDs[name] = id
		}
	}
	g.target, g.size = target, 20_000
	if g.o.Large && g.chance(0.001) {
		g.size = 1_200_000
	}
	if !op.anonymous || g.chance(0.2) {
		r.Header.Set("Authorization", pick(g, []string{"Bearer ", "Bearer ", "bearer ", "BEARER  "})+g.o.Key)
	}
	if g.chance(0.05) {
		r.Header.Set("X-Request-Id", pick(g, []string{"a", "Caller_1.x-y", strings.Repeat("i", 128), "", "a b", "ä", strings.Repeat("i", 129)}))
	}
	params := g.params(op, target)
	if op.body != nil && (op.required || g.chance(0.8)) {
		r.Value = g.body(op)
	}
	g.damage(op, r, target, &params)
	if r.Value != nil && r.Body == nil {
		r.Body = g.encode(r.Value)
	}
	if len(r.Body) > 0 && r.Header["Content-Type"] == nil {
		r.Header.Set("Content-Type", pick(g, []string{"application/json", "application/json", "application/json; charset=utf-8"}))
	}
	params.apply(r, op.path)
	return r
}

// unrouted returns a request for what is not there.
func (g *Generator) unrouted() *Request {
	r := &Request{Method: http.MethodGet, Header: http.Header{"Authorization": {"Bearer " + g.o.Key}}}
	if g.chance(0.5) {
		r.Path = pick(g, []string{"/api", "/api/v1", "/api/v1/managed_agents", "/api/v1/agents", "/api/v1/skills/x/y", "/nothing", "/api/v1/managed_agents/agents/x/skills"})
		r.Flaws = []Flaw{{"unknown path", "", http.StatusNotFound, "not_found"}}
		return r
	}
	op := pick(g, g.ops)
	r.Path = strings.NewReplacer("{", "", "}", "").Replace(op.path)
	for slices.Contains(g.paths[op.path], r.Method) || r.Method == http.MethodGet {
		r.Method = pick(g, []string{http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete, http.MethodOptions, "PROPFIND"})
	}
	r.Flaws = []Flaw{{"unknown method", "", http.StatusMethodNotAllowed, "method_not_allowed"}}
	return r
}

// repeat returns a request with the Idempotency-Key of an earlier one: the same request, or one with another body.
func (g *Generator) repeat() *Request {
	first := pick(g, g.keyed)
	r := *first.Request
	r.Header, r.Repeats = r.Header.Clone(), first
	if r.Value == nil || g.chance(0.6) {
		return &r
	}
	g.target, g.size = nil, 2000
	for _, op := range g.ops {
		if op.id == r.Operation {
			r.Value = g.body(op)
			r.Body = g.encode(r.Value)
			break
		}
	}
	return &r
}

// Learn takes note of what an answer says: objects, their versions, cursors.
func (g *Generator) Learn(r *Request, status int, header http.Header, body []byte) {
	i := slices.IndexFunc(g.ops, func(op *endpoint) bool { return op.id == r.Operation })
	if i < 0 {
		return
	}
	op := g.ops[i]
	if r.Header.Get("Idempotency-Key") != "" && r.Repeats == nil && r.repeatable() {
		g.keyed = keep(g.keyed, &Exchange{r, status, header, body}, 64)
	}
	if first := r.Repeats; first != nil && !first.keyTaken() {
		now := *r // the first that may have taken the key, which first did not
		now.Repeats = nil
		*first = Exchange{&now, status, header, body}
	}
	if status >= 300 || header.Get("Idempotency-Replayed") != "" {
		return
	}
	if r.Method == http.MethodDelete && status == http.StatusNoContent {
		kind := op.kinds[len(op.kinds)-1]
		g.forget(kind, r.IDs[kind+"_id"])
		return
	}
	answer := op.answers.Status(status)
	if answer == nil || answer.Value.Content["application/json"] == nil || len(r.Flaws) > 0 {
		return
	}
	g.learnValue(answer.Value.Content["application/json"].Schema, decode(body), header.Get("ETag"), r)
}

// NamesTurn tells whether the Idempotency-Key of r is that of a turn.
func (r *Request) NamesTurn() bool { return slices.Contains(keysOfTurns, r.Operation) }

// repeatable tells whether it can be said what a repeat of r with another body is answered.
func (r *Request) repeatable() bool {
	return (len(r.Flaws) == 0 || !r.NamesTurn()) && !slices.ContainsFunc(r.Flaws, func(f Flaw) bool {
		return f.Status == http.StatusUnauthorized || f.Status == http.StatusRequestEntityTooLarge || strings.HasPrefix(f.Field, "header/")
	})
}

func (g *Generator) learnValue(ref *openapi3.SchemaRef, v any, etag string, r *Request) {
	object, _ := v.(map[string]any)
	kind := strings.ToLower(component(ref))
	if kind == "diagnosis" {
		return // its agent is as the session pinned it, and may have been deleted since
	}
	if id, ok := object["id"].(string); ok && slices.Contains(objectKinds, kind) {
		if named := r.IDs[kind+"_id"]; len(r.IDs) > 0 && named != id {
			etag = "" // it is that of the object that the path names
		}
		g.learnObject(kind, id, etag, object)
		return
	}
	if next, ok := object["next_cursor"].(string); ok {
		key := r.Operation + r.Query["sort"] + r.Query["order"]
		g.cursors[key] = keep(g.cursors[key], next, 16)
		return
	}
	for name, p := range ref.Value.Properties {
		if p.Ref != "" && object[name] != nil {
			g.learnValue(p, object[name], etag, r)
		}
	}
}

func (g *Generator) learnObject(kind, id, etag string, body map[string]any) {
	for _, o := range g.objects[kind] {
		if o.ID == id {
			o.ETag, o.Body = etag, body
			return
		}
	}
	if slices.Contains(g.gone[kind], id) {
		return // the answer is older than the deletion
	}
	ids := map[string]string{kind + "_id": id}
	for _, parent := range objectKinds {
		if v, ok := body[parent+"_id"].(string); ok {
			ids[parent+"_id"] = v
		}
	}
	g.objects[kind] = keep(g.objects[kind], &Object{Kind: kind, ID: id, ETag: etag, IDs: ids, Body: body}, 100)
}

func (g *Generator) forget(kind, id string) {
	if lasting[kind] {
		return
	}
	g.objects[kind] = slices.DeleteFunc(g.objects[kind], func(o *Object) bool { return o.ID == id })
	g.gone[kind] = keep(g.gone[kind], id, 32)
}

// keep appends to a list and drops its oldest entry when it is longer than n.
func keep[T any](list []T, v T, n int) []T {
	list = append(list, v)
	if len(list) > n {
		list = slices.Delete(list, 0, 1)
	}
	return list
}

func component(ref *openapi3.SchemaRef) string {
	return strings.TrimPrefix(ref.Ref, "#/components/schemas/")
}

// unknownID returns an id that names nothing: of the right form, deleted, or ill-formed.
func (g *Generator) unknownID(kind string) string {
	if len(g.gone[kind]) > 0 && g.chance(0.4) {
		return pick(g, g.gone[kind])
	}
	for _, other := range objectKinds {
		if other != kind && len(g.objects[other]) > 0 && g.chance(0.1) {
			return pick(g, g.objects[other]).ID
		}
	}
	if len(g.objects[kind]) > 0 && g.chance(0.1) {
		return strings.ToUpper(pick(g, g.objects[kind]).ID)
	}
	var b [16]byte
	for i := range b {
		b[i] = byte(g.IntN(256))
	}
	b[6], b[8] = 0x70|b[6]&0xf, 0x80|b[8]&0x3f
	return pick(g, []string{
		uuid.UUID(b).String(), uuid.UUID(b).String(), uuid.Nil.String(), "x", "a b", "\x00", "a/b", "..", `'"`, "' OR 1=1 --", "\xff", "ä", "%", "null", strings.Repeat("y", 300),
	})
}
