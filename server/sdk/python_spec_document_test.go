package sdk_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/litellm-agent-platform/lap/openapi"
)

type node = map[string]any

// document is a specification as it was read.
type document node

func published(t *testing.T) document {
	t.Helper()
	var d node
	if err := yaml.Unmarshal(openapi.YAML, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// at goes down a document by names; what is not there is empty.
func (d document) at(path ...string) node {
	n := node(d)
	for _, name := range path {
		n, _ = n[name].(node)
	}
	return n
}

func (d document) schemas() node { return d.at("components", "schemas") }

func (d document) properties(schema string) node {
	return d.at("components", "schemas", schema, "properties")
}

// resolve follows a reference.
func (d document) resolve(n node) node {
	if ref, ok := n["$ref"].(string); ok {
		return d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return n
}

type operation struct {
	name string // method and path
	node
	params []node // those of its path too
}

func (d document) operations() (all []operation) {
	for path, item := range sorted(d.at("paths")) {
		for method, op := range sorted(item.(node)) {
			if method == "parameters" {
				continue
			}
			o := operation{name: method + " " + path, node: op.(node)}
			for _, list := range []any{item.(node)["parameters"], o.node["parameters"]} {
				list, _ := list.([]any)
				for _, p := range list {
					o.params = append(o.params, d.resolve(p.(node)))
				}
			}
			all = append(all, o)
		}
	}
	return all
}

func sorted(n node) func(yield func(string, any) bool) {
	return func(yield func(string, any) bool) {
		for _, key := range slices.Sorted(maps.Keys(n)) {
			if !yield(key, n[key]) {
				return
			}
		}
	}
}

// eachSchema visits every schema where it is written, named ones first: a reference is visited as such and not followed.
func (d document) eachSchema(visit func(where string, s node, named bool)) {
	var down func(where string, v any, named bool)
	down = func(where string, v any, named bool) {
		s, ok := v.(node)
		if !ok {
			return
		}
		visit(where, s, named)
		properties, _ := s["properties"].(node)
		for name, p := range sorted(properties) {
			down(where+"/"+name, p, false)
		}
		for _, inner := range []string{"items", "additionalProperties", "not"} {
			down(where+"/"+inner, s[inner], false)
		}
		for _, union := range []string{"oneOf", "anyOf", "allOf"} {
			list, _ := s[union].([]any)
			for i, v := range list {
				down(fmt.Sprintf("%s/%s/%d", where, union, i), v, false)
			}
		}
	}
	for name, s := range sorted(d.schemas()) {
		down(name, s, true)
	}
	var parts func(where string, v any)
	parts = func(where string, v any) { // bodies, parameters and headers
		switch v := v.(type) {
		case node:
			for name, inner := range sorted(v) {
				switch name {
				case "schema":
					down(where, inner, false)
				case "examples", "example":
				default:
					parts(where+"/"+name, inner)
				}
			}
		case []any:
			for i, inner := range v {
				parts(fmt.Sprintf("%s/%d", where, i), inner)
			}
		}
	}
	parts("paths", d.at("paths"))
	for _, kind := range []string{"parameters", "responses", "headers", "requestBodies"} {
		parts(kind, d.at("components", kind))
	}
}

var (
	words      = regexp.MustCompile(`[A-Z]+[a-z0-9]*|[a-z0-9]+`)
	identifier = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	reserved   = list(`and as assert async await break class continue def del elif else except false finally for from global if import in is
		lambda none nonlocal not or pass raise return true try while with match case type_`)
	// What the generated classes of either generator have of their own.
	methods   = list("to_dict from_dict to_json from_json to_str additional_properties additional_keys copy json dict schema construct validate fields self")
	arguments = list("client body url self cls")
	classes   = list("Any Dict List Set Type Union Optional None True False Client AuthenticatedClient Response File Unset UNSET BaseModel Field Configuration ApiClient ApiException Enum Exception")
)

func list(text string) map[string]bool {
	set := map[string]bool{}
	for _, word := range strings.Fields(text) {
		set[word] = true
	}
	return set
}

// snake is what a name becomes in Python.
func snake(name string) string {
	return strings.ToLower(strings.Join(words.FindAllString(name, -1), "_"))
}

// names says of a set of names how they go wrong as Python's.
func names(where string, all []string, taken ...map[string]bool) (wrong []string) {
	seen := map[string]string{}
	for _, name := range all {
		s := snake(name)
		switch {
		case !identifier.MatchString(s):
			wrong = append(wrong, fmt.Sprintf("%s: %q is no identifier", where, name))
		case slices.ContainsFunc(taken, func(set map[string]bool) bool { return set[s] }):
			wrong = append(wrong, fmt.Sprintf("%s: %q is taken in Python", where, name))
		case seen[s] != "":
			wrong = append(wrong, fmt.Sprintf("%s: %q and %q are both %s", where, name, seen[s], s))
		}
		seen[s] = name
	}
	return wrong
}
