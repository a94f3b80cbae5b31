package api

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

// TestTheGuideListsEveryErrorCode compares the guide's table with the code, and its statuses with the OpenAPI document.
func TestTheGuideListsEveryErrorCode(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, m := range regexp.MustCompile(`(?m)^\tcode[A-Z]\w+ += (.+)$`).FindAllSubmatch(source, -1) {
		code, ok := map[string]string{"session.TurnNotReady": session.TurnNotReady, "session.TurnInterrupted": session.TurnInterrupted}[string(m[1])]
		if !ok {
			code = strings.Trim(string(m[1]), `"`)
		}
		codes = append(codes, code)
	}
	page, err := os.ReadFile("../guide/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	statuses := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9, ]+) \\|").FindAllSubmatch(page, -1) {
		listed = append(listed, string(m[1]))
		statuses[string(m[1])] = strings.Split(string(m[2]), ", ")
	}
	slices.Sort(codes)
	slices.Sort(listed)
	if len(codes) < 20 || !slices.Equal(codes, listed) {
		t.Errorf("the code has\n%s\nthe guide\n%s", codes, listed)
	}
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, item := range doc.Paths.Map() {
		for _, o := range item.Operations() {
			for status, response := range o.Responses.Map() {
				b, err := json.Marshal(response.Value)
				if err != nil {
					t.Fatal(err)
				}
				for _, code := range codes {
					if strings.Contains(string(b), `"code":"`+code+`"`) || status >= "400" && strings.Contains(string(b), "`"+code+"`") {
						documented[code+" "+status] = true
					}
				}
			}
		}
	}
	for pair := range documented {
		if code, status, _ := strings.Cut(pair, " "); !slices.Contains(statuses[code], status) {
			t.Errorf("the document has %s with status %s, the guide does not", code, status)
		}
	}
	for code, list := range statuses {
		for _, status := range list {
			// No operation is answered so: it is about the methods that a path does not have.
			if code != codeMethodNotAllowed && !documented[code+" "+status] {
				t.Errorf("the guide has %s with status %s, the document does not", code, status)
			}
		}
	}
}
