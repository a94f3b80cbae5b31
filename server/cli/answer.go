package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	maxToolLines = 10
	maxToolLine  = 200
)

// answer shows a turn as its events come: the reply on standard output, all else on standard error.
type answer struct {
	s       *shell
	shown   map[string]string // of each part, what was printed
	current string            // the part that was printed last
	open    bool              // the last line of the output has no end yet
	end     string            // how the turn ended: completed, failed or aborted
	fault   string            // why it did not complete
}

// event shows one event and tells whether it was the turn's last.
func (a *answer) event(e client.Event) bool {
	switch e.Type {
	case "message.delta":
		id, _ := e.Data["part_id"].(string)
		offset, _ := e.Data["offset"].(float64)
		text, _ := e.Data["text"].(string)
		if e.Data["type"] != "reasoning" {
			a.delta(id, int(offset), text)
		}
	case "message.part", "tool.started", "tool.completed":
		a.part(e.Type, partOf(e.Data["part"]))
	case "error":
		a.note("Error%s", detail(e.Data["message"]))
	case "harness.event":
		if e.Data["kind"] == "retry" {
			a.note("The model gateway refused a request, which is sent again%s", detail(e.Data["message"]))
		}
	case "turn.completed", "turn.failed", "turn.aborted":
		a.close()
		a.end = strings.TrimPrefix(e.Type, "turn.")
		if fault, ok := dig(e.Data, "info", "error").(map[string]any); ok {
			a.fault = fmt.Sprintf("%v: %v", fault["name"], fault["message"])
		}
		return true
	}
	return false
}

// partOf decodes a part; one that makes no sense is empty.
func partOf(v any) (p client.MessagePart) {
	if b, err := json.Marshal(v); err == nil {
		_ = json.Unmarshal(b, &p)
	}
	return p
}

func dig(v any, path ...string) any {
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// delta prints what of a delta was not printed yet. Offset counts code points; after a gap the whole part will come.
func (a *answer) delta(id string, offset int, text string) {
	have := len([]rune(a.shown[id]))
	if runes := []rune(text); offset <= have && offset+len(runes) > have {
		a.print(id, string(runes[have-offset:]))
	}
}

func (a *answer) part(kind string, p client.MessagePart) {
	switch {
	case kind == "tool.started":
		a.note("● %s %s", value(p.Tool), arguments(p.Input))
	case kind == "tool.completed":
		a.output(value(p.Output), value(p.Status))
	case p.Type == "text":
		rest, ok := strings.CutPrefix(value(p.Text), a.shown[p.ID])
		if !ok { // the part is not what its deltas were
			a.shown[p.ID], rest = "", value(p.Text)
			a.close()
		}
		a.print(p.ID, rest)
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a *answer) print(id, text string) {
	if text == "" {
		return
	}
	if a.current != id {
		a.close()
		a.current = id
	}
	a.shown[id] += text
	text = strings.ReplaceAll(text, "\r\n", "\n")
	fmt.Fprint(a.s.out, a.s.plain(a.s.out, text))
	a.open = !strings.HasSuffix(text, "\n")
}

// close ends the line of the output.
func (a *answer) close() {
	if a.open {
		fmt.Fprintln(a.s.out)
		a.open = false
	}
}

func (a *answer) note(format string, args ...any) {
	a.close()
	a.s.say(format, args...)
}

// output shows the start of what a tool said.
func (a *answer) output(text, status string) {
	if status == "error" {
		a.note("  failed")
	}
	text = strings.ReplaceAll(strings.TrimRight(text, "\n"), "\r\n", "\n")
	if text == "" {
		return
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if i == maxToolLines {
			a.note("  │ … %d more lines", len(lines)-i)
			return
		}
		a.note("  │ %s", runewidth.Truncate(line, maxToolLine, "…"))
	}
}

// arguments shows what a tool is called with: the one that says most, or all.
func arguments(input map[string]any) string {
	for _, name := range []string{"command", "file_path", "filePath", "path", "pattern", "url", "query"} {
		if text, ok := input[name].(string); ok {
			return runewidth.Truncate(strings.Join(strings.Fields(text), " "), maxToolLine, "…")
		}
	}
	b, err := json.Marshal(input)
	if err != nil || len(input) == 0 {
		return ""
	}
	return runewidth.Truncate(string(b), maxToolLine, "…")
}
