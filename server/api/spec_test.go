package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

func readSpec(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// grouped writes a number as descriptions do.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func TestLimitsInTheCodeAreThoseOfTheDocument(t *testing.T) {
	t.Parallel()
	doc := readSpec(t)
	limits := regexp.MustCompile(`Body limit (\d+) MiB`)
	found := 0
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			limit, ok := bodyLimits[op.OperationID]
			m := limits.FindStringSubmatch(op.Description)
			if ok != (m != nil) || ok && m[1] != fmt.Sprint(limit>>20) {
				t.Errorf("%s: %d and %q", op.OperationID, limit, m)
			}
			if ok {
				found++
			}
		}
	}
	if found != len(bodyLimits) {
		t.Errorf("%d of %d limits name an operation", found, len(bodyLimits))
	}
	agent := doc.Components.Schemas["AgentCreate"].Value.Properties
	message := doc.Components.Schemas["MessageCreate"].Value.Properties
	events := doc.Paths.Value("/api/v1/managed_agents/sessions/{session_id}/events").Get.Parameters.GetByInAndName("query", "limit")
	tail := doc.Paths.Value("/api/v1/managed_agents/sessions/{session_id}/sandbox_logs").Get.Parameters.GetByInAndName("query", "tailLines")
	tty := doc.Paths.Value("/api/v1/managed_agents/sessions/{session_id}/tty").Get
	params := doc.Components.Parameters
	for what, c := range map[string]struct{ text, want string }{
		"environment":  {agent["env_vars"].Value.Description, grouped(maxEnvBytes) + " bytes"},
		"reserved":     {strings.Join(strings.Fields(agent["env_vars"].Value.Description), " "), "refused: " + strings.Join(reservedEnv, " ") + "."},
		"files":        {agent["sandbox_files"].Value.Description, grouped(maxFilesBase64) + " characters"},
		"idle timeout": {agent["idle_timeout_ms"].Value.Description, grouped(int(session.DefaultIdleTimeout.Milliseconds()))},
		"branch":       {agent["branch"].Value.Description, "Default `" + defaultBranch + "`"},
		"harness":      {fmt.Sprint(agent["harness_id"].Value.Default), string(gen.HarnessIDOpencode)},
		"images":       {message["parts"].Value.Description, fmt.Sprintf("at most %d images, %d MiB decoded each and %d MiB together", maxImages, maxImageBytes>>20, maxImagesBytes>>20)},
		"page":         {fmt.Sprint(params["Limit"].Value.Schema.Value.Default), fmt.Sprint(defaultLimit)},
		"clamp":        {params["Limit"].Value.Description, fmt.Sprintf("1–%d", maxLimit)},
		"events":       {fmt.Sprint(events.Schema.Value.Default), fmt.Sprint(defaultEventLimit)},
		"events clamp": {events.Description, fmt.Sprintf("1–%d", maxEventLimit)},
		"log lines":    {fmt.Sprint(tail.Schema.Value.Default), fmt.Sprint(defaultTailLines)},
		"terminal":     {tty.Description, fmt.Sprintf("at most %d MiB", maxKeystrokes>>20)},
		"window":       {tty.Description, fmt.Sprintf("1–%d each", maxSide)},
		"subprotocol":  {tty.Description, "`" + session.TerminalProtocol + "`"},
		"tty":          {tty.OperationID, opTerminal},
		"nesting":      {doc.Info.Description, fmt.Sprintf("%d levels", maxDepth)},
		"mask":         {doc.Components.Schemas["Agent"].Value.Properties["env_vars"].Value.Description, "`" + envMask + "`"},
		"file type":    {doc.Components.Schemas["SandboxFileCreate"].Value.Properties["content_type"].Value.Description, defaultContentType},
		"queue": {doc.Paths.Value("/api/v1/managed_agents/sessions/{session_id}/message").Post.Responses.Status(429).Value.Content["application/json"].
			Examples["queue"].Value.Value.(map[string]any)["error"].(string), session.ErrQueueFull.Error()},
	} {
		if !strings.Contains(c.text, c.want) {
			t.Errorf("%s: %q is not in %q", what, c.want, c.text)
		}
	}
}

// codesInCode are the constants of errors.go whose names begin with code.
func codesInCode(t *testing.T) []string {
	t.Helper()
	elsewhere := map[string]string{"TurnNotReady": session.TurnNotReady, "TurnInterrupted": session.TurnInterrupted}
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "code") {
			return true
		}
		switch v := spec.Values[0].(type) {
		case *ast.BasicLit:
			codes = append(codes, strings.Trim(v.Value, `"`))
		case *ast.SelectorExpr:
			if elsewhere[v.Sel.Name] == "" {
				t.Errorf("the value of %s is not known here", spec.Names[0].Name)
			}
			codes = append(codes, elsewhere[v.Sel.Name])
		}
		return true
	})
	slices.Sort(codes)
	return codes
}

// codesInTable are the codes of the document's table with their statuses.
func codesInTable(doc *openapi3.T) map[string][]string {
	table := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([0-9, ]+) \\| [^|]+ \\|$").FindAllStringSubmatch(doc.Info.Description, -1) {
		table[m[1]] = strings.Split(m[2], ", ")
	}
	return table
}

func TestTheTableOfErrorCodesIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	doc := readSpec(t)
	table := codesInTable(doc)
	if got, want := slices.Sorted(maps.Keys(table)), codesInCode(t); !slices.Equal(got, want) {
		t.Errorf("the table has %q\nthe code has %q", got, want)
	}
	// An answer's description names its codes, and its examples show each of them.
	answers := map[string][]string{codeMethodNotAllowed: {"405"}} // it belongs to no operation
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			for status, answer := range op.Responses.Map() {
				media := answer.Value.Content["application/json"]
				if status < "400" || media.Schema.Ref != "#/components/schemas/Error" {
					continue
				}
				var shown []string
				for name, example := range media.Examples {
					code := example.Value.Value.(map[string]any)["code"].(string)
					shown = append(shown, code)
					if !strings.Contains(*answer.Value.Description, "`"+code+"`") {
						t.Errorf("%s %s: the description does not name %s, which the example %s has", op.OperationID, status, code, name)
					}
					if !slices.Contains(answers[code], status) {
						answers[code] = append(answers[code], status)
					}
				}
				for code := range table {
					if strings.Contains(*answer.Value.Description, "`"+code+"`") && !slices.Contains(shown, code) {
						t.Errorf("%s %s: no example shows %s", op.OperationID, status, code)
					}
				}
			}
		}
	}
	for code, statuses := range table {
		if slices.Sort(answers[code]); !slices.Equal(answers[code], statuses) {
			t.Errorf("%s is in answers %q, the table says %q", code, answers[code], statuses)
		}
	}
}

func TestEveryOperationWithABodyHasARuleAndJSONOnly(t *testing.T) {
	t.Parallel()
	rules := rules{}.byOperation()
	for path, item := range readSpec(t).Paths.Map() {
		for method, op := range item.Operations() {
			if op.RequestBody == nil {
				continue
			}
			if content := op.RequestBody.Value.Content; len(content) != 1 || content["application/json"] == nil || rules[op.OperationID] == nil {
				t.Errorf("%s %s takes what this package does not check", method, path)
			}
		}
	}
}

func TestEveryFormatAndKeywordOfBodiesHasAMessage(t *testing.T) {
	t.Parallel()
	var walk func(s *openapi3.Schema)
	walk = func(s *openapi3.Schema) {
		if s.Format != "" && formatNames[s.Format] == "" {
			t.Errorf("format %s has no message", s.Format)
		}
		if s.UniqueItems || s.MultipleOf != nil || s.MinProps > 0 || s.Not != nil || len(s.AnyOf) > 0 || len(s.AllOf) > 0 {
			t.Errorf("a keyword of %q has no message", s.Description)
		}
		for _, ref := range slices.Concat(s.OneOf, openapi3.SchemaRefs{s.Items, s.AdditionalProperties.Schema}) {
			if ref != nil {
				walk(ref.Value)
			}
		}
		for _, ref := range s.Properties {
			walk(ref.Value)
		}
	}
	for _, item := range readSpec(t).Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				walk(op.RequestBody.Value.Content["application/json"].Schema.Value)
			}
		}
	}
}
