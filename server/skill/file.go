package skill

import (
	"fmt"
	"strconv"
	"strings"
)

// File is the SKILL.md of a skill in the directory slug. Content with YAML front matter is the file; other content gets one in
// front. The harnesses want the directory's name as name there, and a description, for which the skill's name stands in.
func File(slug, name string, description *string, content string) []byte {
	if hasFrontMatter(content) {
		return []byte(content)
	}
	if description == nil || *description == "" {
		description = &name
	}
	return fmt.Appendf(nil, "---\nname: %s\ndescription: %s\n---\n\n%s\n", quote(slug), quote(*description), content)
}

// hasFrontMatter reports whether a text begins with a line --- and has another one.
func hasFrontMatter(content string) bool {
	fences := 0
	for line := range strings.Lines(content) {
		if trimEnd(line) == "---" {
			fences++
		}
		if fences != 1 {
			break
		}
	}
	return fences == 2
}

// quote is a double-quoted YAML scalar on one line.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case strconv.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
