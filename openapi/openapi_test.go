package openapi_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sound is a small document in which no rule finds anything.
const sound = `openapi: 3.0.3
info:
  title: Things
  version: 0.1.0
  description: Keeps things.
  license: { name: MIT, url: https://opensource.org/license/mit }
servers: [{ url: /, description: This server. }]
security: [{ key: [] }]
tags: [{ name: things, description: What is kept. }]
paths:
  /things/{thing_id}:
    parameters:
      - { name: thing_id, in: path, required: true, description: Id of the thing., schema: { type: string, maxLength: 36 }, example: a }
    patch:
      operationId: updateThing
      tags: [things]
      summary: Change a thing
      description: Changes what is given.
      parameters:
        - { name: If-Match, in: header, description: ETag., schema: { type: string, maxLength: 100 }, example: '"1"' }
        - { name: Idempotency-Key, in: header, description: Key., schema: { type: string, maxLength: 100 }, example: k }
        - { name: waitSeconds, in: query, description: Most seconds to wait., schema: { type: integer }, example: 3 }
      requestBody:
        required: true
        content:
          application/json:
            schema: { $ref: '#/components/schemas/ThingUpdate' }
            examples: { rename: { value: { name: b } } }
      responses:
        '200':
          description: The thing.
          headers:
            ETag: { description: Version., schema: { type: string }, example: '"2"' }
          content:
            application/json:
              schema: { $ref: '#/components/schemas/Thing' }
              examples: { thing: { value: { name: b, took_ms: 1, size: 2, cost: 0.5, made_at: '2026-11-23T10:00:00.000Z' } } }
        '400': { $ref: '#/components/responses/Error' }
        '401': { $ref: '#/components/responses/Error' }
        '404': { $ref: '#/components/responses/Error' }
        '412': { $ref: '#/components/responses/Error' }
        '413': { $ref: '#/components/responses/Error' }
        '415': { $ref: '#/components/responses/Error' }
        '422': { $ref: '#/components/responses/Error' }
        '500': { $ref: '#/components/responses/Error' }
        '503': { $ref: '#/components/responses/Error' }
components:
  securitySchemes: { key: { type: http, scheme: bearer, description: The key. } }
  responses:
    Error:
      description: An error.
      content:
        application/json:
          schema: { $ref: '#/components/schemas/Error' }
          examples: { error: { value: { error: no, code: 'no', request_id: r, details: [] } } }
  schemas:
    ThingUpdate:
      type: object
      description: What to change.
      additionalProperties: false
      properties:
        name: { type: string, maxLength: 10, description: Name. }
        tags: { type: array, maxItems: 3, items: { type: string, enum: [a, b] }, description: Labels. }
        map: { type: object, maxProperties: 3, additionalProperties: { type: string, maxLength: 10 }, description: More. }
        sum: { type: string, pattern: '^[0-9a-f]{64}$', description: SHA-256. }
    Thing:
      type: object
      description: A thing.
      properties:
        name: { type: string, description: Name. }
        took_ms: { type: integer, description: Milliseconds it took. }
        size: { type: integer, description: Bytes of it. }
        cost: { type: number, description: US dollars. }
        made_at: { type: string, format: date-time, description: When it was made. }
    Error:
      type: object
      description: An error.
      required: [error, code, request_id, details]
      properties:
        error: { type: string, description: One sentence. }
        code: { type: string, description: Its name. }
        request_id: { type: string, description: Id. }
        details: { type: array, items: { type: string }, description: What is wrong. }
`

// defects are changes of the sound document, each with the rule that finds it.
var defects = []struct{ rule, old, with string }{
	{"lap-operation-text", "summary: Change a thing", "summary: Changes a thing, as it is told to."},
	{"lap-operation-text", "      summary: Change a thing\n", ""},
	{"lap-operation-text", "      description: Changes what is given.\n", ""},
	{"lap-operation-tag", "      tags: [things]\n", ""},
	{"lap-operation-tag", "tags: [things]", "tags: [things, things]"},
	{"lap-operation-id", "updateThing", "update_thing"},
	{"lap-request-examples", "            examples: { rename: { value: { name: b } } }\n", ""},
	{"lap-response-examples", "examples: { thing:", "x-examples: { thing:"},
	{"lap-response-examples", "          examples: { error: { value: { error: no, code: 'no', request_id: r, details: [] } } }\n", ""},
	{"lap-parameter-example", ", example: k }", " }"},
	{"lap-parameter-example", ", example: a }", " }"},
	{"lap-header", "description: Version., ", ""},
	{"lap-header", `, example: '"2"' }`, " }"},
	{"lap-refusals", "        '400': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '401': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '404': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '412': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '413': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '415': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '422': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '500': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-refusals", "        '503': { $ref: '#/components/responses/Error' }\n", ""},
	{"lap-error-shape", "required: [error, code, request_id, details]", "required: [error, code]"},
	{"lap-bounded", "name: { type: string, maxLength: 10,", "name: { type: string,"},
	{"lap-bounded", "schema: { type: string, maxLength: 36 }", "schema: { type: string }"},
	{"lap-bounded", "'^[0-9a-f]{64}$'", "'^[0-9a-f]+$'"},
	{"lap-bounded", "maxItems: 3, ", ""},
	{"lap-bounded", "items: { type: string, enum: [a, b] }", "items: { type: string }"},
	{"lap-bounded", "maxProperties: 3, ", ""},
	{"lap-bounded", "additionalProperties: { type: string, maxLength: 10 }", "additionalProperties: { type: string }"},
	{"lap-bounded", "      additionalProperties: false\n", ""},
	{"lap-bounded", "      additionalProperties: false\n", "      additionalProperties: false\n      allOf: [{ type: object, additionalProperties: false }]\n"},
	{"lap-described", "      description: What to change.\n", ""},
	{"lap-described", ", description: SHA-256. }", " }"},
	{"lap-units", "Milliseconds it took", "How long it took"},
	{"lap-units", "Bytes of it", "How large it is"},
	{"lap-units", "US dollars", "What it cost"},
	{"lap-units", "Most seconds to wait", "How long to wait"},
	{"lap-units", "type: string, format: date-time, description: When", "type: string, description: When"},
	// Of the rules that came with the tool.
	{"oas3-valid-media-example", "examples: { rename: { value: { name: b } } }", "examples: { rename: { value: { nam: b } } }"},
	{"operation-success-response", "        '200':\n          description: The thing.", "        '102':\n          description: The thing."},
	{"oas3-unused-component", "{ $ref: '#/components/schemas/ThingUpdate' }", "{ type: object, additionalProperties: false, properties: { name: { type: string, maxLength: 3 } } }"},
}

func TestEachRuleFindsThePlantedDefect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := []string{write(t, dir, "sound.yaml", sound)}
	rules := map[string]bool{}
	for i, d := range defects {
		if strings.Count(sound, d.old) != 1 {
			t.Fatalf("%q is not once in the document", d.old)
		}
		files = append(files, write(t, dir, string(rune('a'+i/26))+string(rune('a'+i%26))+".yaml", strings.Replace(sound, d.old, d.with, 1)))
		rules[d.rule] = true
	}
	found := lint(t, files...)
	if f := found[files[0]]; len(f) > 0 {
		t.Errorf("in the sound document: %q", f)
	}
	for i, d := range defects {
		if f := found[files[i+1]]; !slices.Contains(f, d.rule) {
			t.Errorf("%q in place of %q: found %q, want %s", d.with, d.old, f, d.rule)
		}
	}
	config, err := os.ReadFile("spectral.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(config)) {
		if rule, ok := strings.CutPrefix(line, "  lap-"); ok && !rules["lap-"+strings.TrimSuffix(rule, ":\n")] {
			t.Errorf("no defect is planted for lap-%s", rule)
		}
	}
}

// The one operation without a success is the terminal; the defect above is found in any other.
func TestTheTerminalMayHaveNoSuccess(t *testing.T) {
	t.Parallel()
	const path = "/api/v1/managed_agents/sessions/{session_id}/tty"
	text := strings.NewReplacer("/things/{thing_id}", path, "thing_id", "session_id", "    patch:", "    get:", "'200':\n          description", "'101':\n          description").Replace(sound)
	dir, err := os.MkdirTemp(".", "lint-") // exceptions are for files of this directory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := write(t, dir, "tty.yaml", text)
	for _, rules := range lint(t, file) {
		if slices.Contains(rules, "operation-success-response") {
			t.Errorf("found %q", rules)
		}
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lint returns the names of the rules that found something, by file.
func lint(t *testing.T, files ...string) map[string][]string {
	t.Helper()
	if _, err := os.Stat("node_modules/.bin/spectral"); err != nil {
		t.Fatalf(`%v: run "go tool task spec:install"`, err)
	}
	cmd := exec.CommandContext(t.Context(), "node_modules/.bin/spectral", append([]string{"lint", "--ruleset", "spectral.yaml", "--format", "json", "--quiet"}, files...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // 1: something was found
		t.Fatalf("%v: %s", err, out)
	}
	var results []struct{ Code, Source string }
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := map[string][]string{}
	for _, r := range results {
		found[r.Source] = append(found[r.Source], r.Code)
	}
	return found
}
