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
	reply   client.Reply
	current string // the part that was printed last
	open    bool   // the last line of the output has no end yet
}

// event shows one event.
func (a *answer) event(e client.Event) {
	a.print(a.reply.Add(e))
	switch e.Type {
	case "tool.started":
		p := e.Part()
		a.note("● %s %s", value(p.Tool), arguments(p.Input))
	case "tool.completed":
		p := e.Part()
		a.output(value(p.Output), value(p.Status))
	case "error":
		a.note("Error%s", detail(e.Data["message"]))
	case "harness.event":
		if e.Data["kind"] == "retry" {
			a.note("The model gateway refused a request, which is sent again%s", detail(e.Data["message"]))
		}
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a *answer) print(d client.Delta) {
	if d.Text == "" {
		return
	}
	if a.current != d.Part || d.Anew {
		a.close()
		a.current = d.Part
	}
	text := strings.ReplaceAll(d.Text, "\r\n", "\n")
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
