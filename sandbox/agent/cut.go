package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	maxOutput  = 64 << 10 // bytes of a tool's output or input in one record
	maxText    = 1 << 20  // bytes of a text part
	maxResult  = 8 << 20  // bytes of all parts of a turn's result
	maxMessage = 8 << 10  // bytes of an error's message
	maxParts   = 5_000    // parts of a turn's result
)

// bounded returns the data of a harness's event as JSON of limited size.
func bounded(typ string, data any) (json.RawMessage, error) {
	b, err := json.Marshal(data)
	if err != nil || len(b) <= maxOutput {
		return b, err
	}
	var whole struct {
		PartID string              `json:"part_id"`
		Part   sandboxd.OutputPart `json:"part"`
	}
	if err := json.Unmarshal(b, &whole); err != nil || whole.Part.ID == "" {
		return json.Marshal(map[string]any{"kind": "truncated", "message": fmt.Sprintf("a %s event of %d bytes was left out", typ, len(b))})
	}
	whole.Part = boundedPart(whole.Part, maxText)
	return json.Marshal(whole)
}

// boundedPart cuts a part's text, output and input; none of them is longer than most afterwards, markers aside.
func boundedPart(p sandboxd.OutputPart, most int) sandboxd.OutputPart {
	p.Text = cut(p.Text, min(most, maxText))
	p.Output = cut(p.Output, min(most, maxOutput))
	if p.Input != nil && len(*p.Input) > min(most, maxOutput) {
		note := json.RawMessage(fmt.Sprintf(`{"truncated":true,"bytes":%d}`, len(*p.Input)))
		p.Input = &note
	}
	return p
}

// boundedResult limits a turn's result: each part, and all together, the last parts being kept whole first.
func boundedResult(r sandboxd.TurnResult) sandboxd.TurnResult {
	parts := r.Parts
	if len(parts) > maxParts {
		parts = parts[len(parts)-maxParts:]
	}
	r.Parts = make([]sandboxd.OutputPart, len(parts))
	left := maxResult
	for i := len(parts) - 1; i >= 0; i-- {
		r.Parts[i] = boundedPart(parts[i], max(left, 0))
		left -= size(r.Parts[i])
	}
	if r.Error != nil {
		r.Error = &sandboxd.TurnError{Name: r.Error.Name, Message: *cut(&r.Error.Message, maxMessage)}
	}
	return r
}

func size(p sandboxd.OutputPart) int {
	n := 0
	for _, s := range []*string{p.Text, p.Output} {
		if s != nil {
			n += len(*s)
		}
	}
	if p.Input != nil {
		n += len(*p.Input)
	}
	return n
}

// cut shortens s to at most most bytes and a marker, at the end of a code point.
func cut(s *string, most int) *string {
	if s == nil || len(*s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart((*s)[end]) {
		end--
	}
	short := fmt.Sprintf("%s\n[%d more bytes were cut]", (*s)[:end], len(*s)-end)
	return &short
}

// lastLines returns the end of what a program said: at most n lines that are not blank, joined for one sentence.
func lastLines(out string, n int) string {
	var lines []string
	for line := range strings.Lines(out) {
		// A carriage return starts the line anew: only what was seen last counts.
		line = strings.TrimRight(line, "\r\n \t")
		line = strings.TrimSpace(line[strings.LastIndexByte(line, '\r')+1:])
		if line != "" {
			lines = append(lines, strings.ToValidUTF8(line, "?"))
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], " · ")
}
