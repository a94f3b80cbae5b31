// Package skill owns how skills look as text: blocks in a prompt, names of directories, SKILL.md files. Nothing else reads or
// writes them. It is pure, and must not know where skills are stored or who asks for them.
package skill

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Prompt is a system prompt taken apart: the text in front, and the blocks of skills.
type Prompt struct {
	Base   string
	Blocks []Block
}

// Block is the text of a skill in a prompt, which a marker line precedes. It runs to the next marker or the end.
type Block struct{ ID, Text string }

// MaxPrompt is how many code points a prompt may have.
const MaxPrompt = 1 << 20

const markerStart, markerEnd = "<!-- skill:", " -->"

// Parse takes a prompt apart. A marker counts if its id exists; any other is plain text of what it stands in. White space that
// borders on a block is dropped, but for the indentation of its first line.
func Parse(text string, exists func(id string) bool) Prompt {
	var p Prompt
	from, id := 0, ""
	end := func(to int) {
		if id == "" {
			p.Base = trimEnd(text[from:to])
		} else {
			p.Blocks = append(p.Blocks, Block{ID: id, Text: trimBlock(text[from:to])})
		}
	}
	at := 0
	for line := range strings.Lines(text) {
		next := at + len(line)
		if m := marker(line); isID(m) && exists(m) {
			end(at)
			from, id = next, m
		}
		at = next
	}
	end(len(text))
	return p
}

// String is the canonical form: the base, then each block after a blank line. Parse returns an equal Prompt for it, if the texts
// have no markers of their own that exist.
func (p Prompt) String() string {
	var b strings.Builder
	b.WriteString(trimEnd(p.Base))
	for _, block := range p.Blocks {
		if b.Len() > 0 {
			b.WriteString("\n\n")
		}
		b.WriteString(markerStart + block.ID + markerEnd)
		if text := trimBlock(block.Text); text != "" {
			b.WriteString("\n" + text)
		}
	}
	return b.String()
}

// Attach returns the prompt with a block at its end, or as it is if the skill has a block already. A content for which HasMarker
// holds must not be attached.
func (p Prompt) Attach(id, content string) Prompt {
	if slices.ContainsFunc(p.Blocks, func(b Block) bool { return b.ID == id }) {
		return p
	}
	p.Blocks = append(slices.Clip(p.Blocks), Block{ID: id, Text: strings.TrimSpace(content)})
	return p
}

// Detach returns the prompt without the blocks of a skill.
func (p Prompt) Detach(id string) Prompt {
	p.Blocks = slices.DeleteFunc(slices.Clone(p.Blocks), func(b Block) bool { return b.ID == id })
	return p
}

// DetachAll returns the prompt without blocks.
func (p Prompt) DetachAll() Prompt { return Prompt{Base: p.Base} }

// TooLong tells whether the canonical form has more code points than a prompt may have.
func (p Prompt) TooLong() bool { return utf8.RuneCountInString(p.String()) > MaxPrompt }

// IDs are the skills that have a block, in order, each once.
func (p Prompt) IDs() []string {
	ids, seen := []string{}, map[string]bool{}
	for _, b := range p.Blocks {
		if !seen[b.ID] {
			seen[b.ID] = true
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// Markers are the ids that markers in a text name, in order, each once, whether such skills exist or not.
func Markers(text string) []string {
	var ids []string
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		if id := marker(line); isID(id) && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// HasMarker tells whether a content has a line that is a marker, of whatever id, or would have when it is attached.
func HasMarker(content string) bool {
	for line := range strings.Lines(strings.TrimSpace(content)) {
		if marker(line) != "" {
			return true
		}
	}
	return false
}

// marker returns what a line names if it is a marker. White space behind it is tolerated, of every kind that is trimmed elsewhere:
// trimming must not make a marker of a line that was none.
func marker(line string) string {
	if !strings.HasPrefix(line, markerStart) {
		return ""
	}
	id, ok := strings.CutSuffix(trimEnd(line[len(markerStart):]), markerEnd)
	if !ok || strings.ContainsFunc(id, unicode.IsSpace) {
		return ""
	}
	return id
}

// isID reports whether s is a UUID in its canonical lower-case form, the only one that skills have.
func isID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

func trimEnd(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }

// trimBlock drops blank lines in front and white space at the end. The first line stays indented: a marker that does not count
// because it is indented must not become one.
func trimBlock(s string) string {
	s = trimEnd(s)
	blank := len(s) - len(strings.TrimLeftFunc(s, unicode.IsSpace))
	return s[strings.LastIndexByte(s[:blank], '\n')+1:]
}
