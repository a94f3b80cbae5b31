package skill

import (
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

const maxSlug = 60

// Slug is the name of a skill's directory: the skill's name without accents in lower case, runs of all but letters and digits as
// one hyphen, or the id if nothing is left. If that is taken it gets a number. It matches ^[a-z0-9]+(-[a-z0-9]+)*$, which opencode
// and Claude ask of a skill.
func Slug(name, id string, taken func(slug string) bool) string {
	slug := cut(fold(name), maxSlug)
	if slug == "" {
		slug = id
	}
	for n, first := 2, slug; taken(slug); n++ {
		suffix := "-" + strconv.Itoa(n)
		slug = cut(first, maxSlug-len(suffix)) + suffix
	}
	return slug
}

func fold(name string) string {
	var b strings.Builder
	gap := false
	for _, r := range norm.NFKD.String(name) {
		if unicode.Is(unicode.Mn, r) {
			continue
		}
		r = unicode.ToLower(r)
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte('-')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}

func cut(slug string, length int) string {
	return strings.TrimRight(slug[:min(len(slug), length)], "-")
}
