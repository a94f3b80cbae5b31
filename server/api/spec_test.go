package api

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

func readSpec(t *testing.T) *openapi3.T {
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

func TestEveryErrorCodeIsDocumented(t *testing.T) {
	t.Parallel()
	spec, err := gen.GetSpecJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{
		codeInvalidJSON, codeInvalidRequest, codeUnauthorized, codeNotFound, codeMethodNotAllowed, codeTooLarge, codeUnsupportedMedia,
		codeSessionNotReady, codeTurnInterrupted, codeHarnessIsTUI, codeTooManyTurns, codeKeyReused, codePrecondition, codeNoGateway,
		codeHarnessUnavailable, codeDatabase, codeShuttingDown, codeInternal, codeNotRestartable, codeExpired, codeCapacity, codeRate, codeNoSandbox,
		codeBusy, codeNoTerminal, codeUnreachable, codeOrigin, codeUpgrade,
	} {
		if !strings.Contains(string(spec), "`"+code+"`") {
			t.Errorf("%s is not in the document", code)
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
