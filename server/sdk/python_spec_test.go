package sdk_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// digestible are the rules that keep the specification good for the generators of Python clients, each with defects it must find.
var digestible = []struct {
	rule, why string
	find      func(document) []string
	defects   map[string]func(document)
}{
	{
		"OpenAPI 3.0", "generators read keywords of 3.1 as nothing, or refuse the document",
		func(d document) (wrong []string) {
			if version, _ := d["openapi"].(string); !strings.HasPrefix(version, "3.0.") {
				wrong = append(wrong, "openapi: "+version)
			}
			later := list(`const $defs $schema $id if then else patternProperties propertyNames prefixItems contains unevaluatedProperties
				unevaluatedItems dependentRequired dependentSchemas contentEncoding contentMediaType examples`)
			d.eachSchema(func(where string, s node, _ bool) {
				for name := range sorted(s) {
					if later[name] {
						wrong = append(wrong, where+": "+name)
					}
				}
				if _, list := s["type"].([]any); list {
					wrong = append(wrong, where+": type is a list")
				}
			})
			return wrong
		},
		map[string]func(document){
			"version":   func(d document) { d["openapi"] = "3.1.0" },
			"const":     func(d document) { d.properties("Agent")["name"].(node)["const"] = "x" },
			"type list": func(d document) { d.properties("Agent")["name"].(node)["type"] = []any{"string", "null"} },
			"deep":      func(d document) { d.properties("AgentList")["data"].(node)["items"] = node{"propertyNames": node{}} },
			"inline": func(d document) {
				d.at("components", "parameters", "Limit")["schema"] = node{"type": "integer", "examples": []any{1}}
			},
		},
	},
	{
		"operation names", "each is the name of a function, or of a module",
		func(d document) (wrong []string) {
			var ids []string
			for _, op := range d.operations() {
				id, _ := op.node["operationId"].(string)
				if id == "" {
					wrong = append(wrong, op.name+": no operationId")
					continue
				}
				ids = append(ids, id)
			}
			return append(wrong, names("operations", ids, reserved)...)
		},
		map[string]func(document){
			"none":      func(d document) { delete(d.at("paths", "/healthz", "get"), "operationId") },
			"same":      func(d document) { d.at("paths", "/healthz", "get")["operationId"] = "GetAgent" },
			"keyword":   func(d document) { d.at("paths", "/healthz", "get")["operationId"] = "import" },
			"no letter": func(d document) { d.at("paths", "/healthz", "get")["operationId"] = "9lives" },
		},
	},
	{
		"tags", "each is a package or a class with the functions of its operations, which would be nowhere, or twice",
		func(d document) (wrong []string) {
			described := map[string]bool{}
			var all []string
			tags, _ := d["tags"].([]any)
			for _, t := range tags {
				name, _ := t.(node)["name"].(string)
				all = append(all, name)
				if text, _ := t.(node)["description"].(string); text != "" {
					described[name] = true
				}
			}
			for _, op := range d.operations() {
				tags, _ := op.node["tags"].([]any)
				if len(tags) != 1 {
					wrong = append(wrong, fmt.Sprintf("%s: %d tags", op.name, len(tags)))
					continue
				}
				if name, _ := tags[0].(string); !described[name] {
					wrong = append(wrong, fmt.Sprintf("%s: nothing describes the tag %q", op.name, name))
				}
			}
			return append(wrong, names("tags", all, reserved)...)
		},
		map[string]func(document){
			"none":         func(d document) { delete(d.at("paths", "/healthz", "get"), "tags") },
			"two":          func(d document) { d.at("paths", "/healthz", "get")["tags"] = []any{"health", "agents"} },
			"undescribed":  func(d document) { d.at("paths", "/healthz", "get")["tags"] = []any{"other"} },
			"same package": func(d document) { d["tags"] = append(d["tags"].([]any), node{"name": "Agents", "description": "x"}) },
		},
	},
	{
		"schema names", "each is a class in a module of its own name; those that the generated code has itself would be hidden",
		func(d document) (wrong []string) {
			all := slices.Sorted(maps.Keys(d.schemas()))
			for _, name := range all {
				if !regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`).MatchString(name) || classes[name] {
					wrong = append(wrong, fmt.Sprintf("schema %s: not a good name of a class", name))
				}
			}
			return append(wrong, names("schemas", all, reserved)...)
		},
		map[string]func(document){
			"small":       func(d document) { d.schemas()["agent_list"] = node{} },
			"hides":       func(d document) { d.schemas()["Response"] = node{} },
			"same module": func(d document) { d.schemas()["TurnINFO"] = d.schemas()["TurnInfo"] },
			"keyword":     func(d document) { d.schemas()["Import"] = node{} },
		},
	},
	{
		"field names", "each is an attribute; those that are none, or are methods, are renamed by each generator in its own way",
		func(d document) (wrong []string) {
			d.eachSchema(func(where string, s node, _ bool) {
				properties, _ := s["properties"].(node)
				wrong = append(wrong, names(where, slices.Sorted(maps.Keys(properties)), reserved, methods)...)
				for name := range sorted(properties) {
					if strings.HasPrefix(name, "model_") {
						wrong = append(wrong, where+": pydantic keeps "+name+" for itself")
					}
				}
			})
			return wrong
		},
		map[string]func(document){
			"keyword":  func(d document) { d.properties("Agent")["from"] = node{"type": "string"} },
			"method":   func(d document) { d.properties("Agent")["to_dict"] = node{"type": "string"} },
			"pydantic": func(d document) { d.properties("Agent")["model_config"] = node{"type": "string"} },
			"twice":    func(d document) { d.properties("Agent")["createdAt"] = node{"type": "string"} },
			"sign":     func(d document) { d.properties("Agent")["_"] = node{"type": "string"} },
		},
	},
	{
		"parameter names", "each is an argument of a function",
		func(d document) (wrong []string) {
			for _, op := range d.operations() {
				var all []string
				for _, p := range op.params {
					name, _ := p["name"].(string)
					all = append(all, name)
				}
				wrong = append(wrong, names(op.name, all, reserved, arguments)...)
			}
			return wrong
		},
		map[string]func(document){
			"keyword": func(d document) { d.at("components", "parameters", "Limit")["name"] = "from" },
			"own":     func(d document) { d.at("components", "parameters", "Limit")["name"] = "client" },
			"twice":   func(d document) { d.at("components", "parameters", "Limit")["name"] = "Cursor" },
		},
	},
	{
		"no anonymous objects", "a class needs a name, and a made-up one changes when something is inserted before it",
		func(d document) (wrong []string) {
			d.eachSchema(func(where string, s node, named bool) {
				_, fields := s["properties"]
				_, open := s["additionalProperties"]
				switch {
				case named || s["$ref"] != nil:
				case fields:
					wrong = append(wrong, where+": an object without a name")
				case s["type"] == "object" && !open:
					wrong = append(wrong, where+": an object without fields")
				case s["oneOf"] != nil || s["anyOf"] != nil || s["allOf"] != nil:
					wrong = append(wrong, where+": a union without a name")
				}
			})
			return wrong
		},
		map[string]func(document){
			"body": func(d document) {
				d.at("paths", "/api/v1/skills", "post", "requestBody", "content", "application/json")["schema"] = node{"type": "object", "properties": node{}}
			},
			"answer": func(d document) {
				d.at("paths", "/healthz", "get", "responses", "200", "content", "application/json")["schema"] = node{"type": "object"}
			},
			"field": func(d document) { d.properties("Agent")["x"] = node{"type": "object", "properties": node{}} },
			"item":  func(d document) { d.properties("AgentList")["data"].(node)["items"] = node{"properties": node{}} },
			"union": func(d document) {
				d.properties("Agent")["x"] = node{"anyOf": []any{node{"$ref": "#/components/schemas/Skill"}}}
			},
		},
	},
	{
		"unions", "without a discriminator that names each variant, generated code tries one after the other, or refuses all",
		func(d document) (wrong []string) {
			d.eachSchema(func(where string, s node, _ bool) {
				for _, kind := range []string{"anyOf", "allOf", "not"} {
					if s[kind] != nil {
						wrong = append(wrong, where+": "+kind)
					}
				}
				if variants, ok := s["oneOf"].([]any); ok {
					wrong = append(wrong, wrongVariants(d, where, s, variants)...)
				}
			})
			return wrong
		},
		map[string]func(document){
			"anyOf": func(d document) { d.schemas()["Agent"].(node)["anyOf"] = []any{} },
			"none":  func(d document) { delete(d.schemas()["MessagePartCreate"].(node), "discriminator") },
			"unmapped": func(d document) {
				delete(d.at("components", "schemas", "MessagePartCreate", "discriminator", "mapping"), "image")
			},
			"inline": func(d document) {
				u := d.schemas()["MessagePartCreate"].(node)
				u["oneOf"] = append(u["oneOf"].([]any), node{"type": "string"})
			},
			"optional":    func(d document) { delete(d.schemas()["TextPartCreate"].(node), "required") },
			"other value": func(d document) { d.properties("TextPartCreate")["type"].(node)["enum"] = []any{"words"} },
		},
	},
	{
		"enums", "a member needs a name and one type; other values than strings make a type of their own",
		func(d document) (wrong []string) {
			d.eachSchema(func(where string, s node, _ bool) {
				values, isEnum := s["enum"].([]any)
				if !isEnum {
					return
				}
				var all []string
				for _, v := range values {
					text, isText := v.(string)
					switch {
					case isText:
						all = append(all, text)
					case v != nil || s["nullable"] != true:
						wrong = append(wrong, fmt.Sprintf("%s: the value %v", where, v))
					}
				}
				if s["type"] != "string" {
					wrong = append(wrong, fmt.Sprintf("%s: an enum of %v", where, s["type"]))
				}
				wrong = append(wrong, names(where, all)...)
			})
			return wrong
		},
		map[string]func(document){
			"number":  func(d document) { d.schemas()["HarnessId"].(node)["enum"] = []any{"opencode", 7} },
			"null":    func(d document) { d.schemas()["HarnessId"].(node)["enum"] = []any{"opencode", nil} },
			"type":    func(d document) { d.schemas()["HarnessId"].(node)["type"] = "integer" },
			"twice":   func(d document) { d.schemas()["HarnessId"].(node)["enum"] = []any{"claude-code", "claude_code"} },
			"no name": func(d document) { d.schemas()["HarnessId"].(node)["enum"] = []any{"*"} },
		},
	},
	{
		"no recursion", "classes that contain each other cannot be imported one after the other",
		func(d document) (wrong []string) {
			uses := map[string]map[string]bool{}
			d.eachSchema(func(where string, s node, _ bool) {
				if ref, ok := s["$ref"].(string); ok {
					owner, _, _ := strings.Cut(where, "/")
					if uses[owner] == nil {
						uses[owner] = map[string]bool{}
					}
					uses[owner][ref[strings.LastIndexByte(ref, '/')+1:]] = true
				}
			})
			for name := range d.schemas() {
				seen := map[string]bool{}
				var reach func(string) bool
				reach = func(at string) bool {
					for next := range uses[at] {
						if next == name {
							return true
						}
						if !seen[next] {
							seen[next] = true
							if reach(next) {
								return true
							}
						}
					}
					return false
				}
				if reach(name) {
					wrong = append(wrong, "schema "+name+" contains itself")
				}
			}
			return wrong
		},
		map[string]func(document){
			"itself": func(d document) {
				d.properties("Tokens")["more"] = node{"type": "array", "items": node{"$ref": "#/components/schemas/Tokens"}}
			},
			"around": func(d document) { d.properties("Tokens")["turn"] = node{"$ref": "#/components/schemas/TurnInfo"} },
		},
	},
	{
		"references stand alone", "what stands beside a $ref is ignored in 3.0, and nullable without a type too",
		func(d document) (wrong []string) {
			d.eachSchema(func(where string, s node, _ bool) {
				if s["$ref"] != nil && len(s) > 1 {
					wrong = append(wrong, where+": something beside the $ref")
				}
				if s["nullable"] != nil && s["type"] == nil {
					wrong = append(wrong, where+": nullable without a type")
				}
			})
			return wrong
		},
		map[string]func(document){
			"nullable reference": func(d document) {
				d.properties("Agent")["x"] = node{"$ref": "#/components/schemas/Skill", "nullable": true}
			},
			"nullable alone": func(d document) { d.properties("Agent")["x"] = node{"nullable": true} },
		},
	},
	{
		"formats", "a format that a generator does not know is a string without a word",
		func(d document) (wrong []string) {
			known := list("date-time byte uuid uri int32 int64 float double")
			d.eachSchema(func(where string, s node, _ bool) {
				if f, ok := s["format"].(string); ok && !known[f] {
					wrong = append(wrong, where+": format "+f)
				}
			})
			return wrong
		},
		map[string]func(document){"unknown": func(d document) { d.properties("Agent")["name"].(node)["format"] = "hostname" }},
	},
	{
		"bodies are JSON", "another form of a body makes a function of its own, or hides this one",
		func(d document) (wrong []string) {
			for _, op := range d.operations() {
				body, _ := op.node["requestBody"].(node)
				content, _ := d.resolve(body)["content"].(node)
				for media := range sorted(content) {
					if media != "application/json" {
						wrong = append(wrong, op.name+": takes "+media)
					}
				}
			}
			return wrong
		},
		map[string]func(document){
			"form": func(d document) {
				d.at("paths", "/api/v1/skills", "post", "requestBody", "content")["multipart/form-data"] = node{}
			},
		},
	},
}

func wrongVariants(d document, where string, union node, variants []any) (wrong []string) {
	discriminator, _ := union["discriminator"].(node)
	property, _ := discriminator["propertyName"].(string)
	mapping, _ := discriminator["mapping"].(node)
	mapped := map[any]string{}
	for value, ref := range mapping {
		mapped[ref] = value
	}
	for i, v := range variants {
		ref := v.(node)["$ref"]
		value, ok := mapped[ref]
		if ref == nil || !ok {
			wrong = append(wrong, fmt.Sprintf("%s: variant %d has no name, or the discriminator does not", where, i))
			continue
		}
		s := d.resolve(v.(node))
		properties, _ := s["properties"].(node)
		tag, _ := properties[property].(node)
		required, _ := s["required"].([]any)
		if enum, _ := tag["enum"].([]any); len(enum) != 1 || enum[0] != value || !slices.Contains(required, any(property)) {
			wrong = append(wrong, fmt.Sprintf("%s: variant %d does not require its %s to be %q", where, i, property, value))
		}
	}
	return wrong
}

func TestTheSpecificationStaysDigestibleForPythonGenerators(t *testing.T) {
	t.Parallel()
	for _, r := range digestible {
		t.Run(r.rule, func(t *testing.T) {
			t.Parallel()
			for _, wrong := range r.find(published(t)) {
				t.Errorf("%s (%s)", wrong, r.why)
			}
			for name, plant := range r.defects {
				d := published(t)
				plant(d)
				if len(r.find(d)) == 0 {
					t.Errorf("the planted defect %q is not found", name)
				}
			}
		})
	}
}

// The README names modules and classes of code that is generated elsewhere: as the generators make them of the specification.
func TestThePythonClientIsThatOfThisSpecification(t *testing.T) {
	t.Parallel()
	d := published(t)
	functions := map[string]bool{}
	for _, op := range d.operations() {
		id, _ := op.node["operationId"].(string)
		functions[fmt.Sprint(op.node["tags"].([]any)[0], ".", snake(id))] = true
	}
	if version, _ := d.at("info")["version"].(string); !strings.Contains(readFile(t, "../../gen/python/lap.py"), fmt.Sprintf("__version__ = %q", version)) {
		t.Errorf("lap.py has another version than the specification, %s", version)
	}
	_, section, found := strings.Cut(readFile(t, "../../gen/python/README.md"), "## A generated client")
	n := 0
	for _, m := range regexp.MustCompile(`(?m)^from lap_client\.(api\.(\w+)|models) import (.+)$`).FindAllStringSubmatch(section, -1) {
		for name := range strings.SplitSeq(m[3], ", ") {
			n++
			if m[2] != "" && !functions[m[2]+"."+name] || m[2] == "" && d.schemas()[name] == nil {
				t.Errorf("%s: there is no %s", m[0], name)
			}
		}
	}
	if !found || n < 5 {
		t.Errorf("the section has %d imports", n)
	}
}
