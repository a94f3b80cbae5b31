package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// version is a version of the document, in semantic versioning.
type version [3]int

var infoVersion = regexp.MustCompile(`(?m)^  version: (\d+)\.(\d+)\.(\d+)$`)

func versionOf(document string) (v version, err error) {
	m := infoVersion.FindStringSubmatch(document)
	if m == nil {
		return v, errors.New("info.version is not three numbers")
	}
	_, err = fmt.Sscan(strings.Join(m[1:], " "), &v[0], &v[1], &v[2])
	return v, err
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) above(other version) bool { return slices.Compare(v[:], other[:]) > 0 }

// mayBreak tells whether clients of the other version must expect to be broken: by another major number or, below 1, another minor one.
func (v version) mayBreak(other version) bool {
	return v[0] > other[0] || v[0] == 0 && other[0] == 0 && v[1] > other[1]
}

// revision is the document compared with the released one.
type revision struct {
	version, released version
	changes           []change
}

func (r *revision) breaks() bool {
	return slices.ContainsFunc(r.changes, func(c change) bool { return c.breaks })
}

// check refuses a changelog that is not that of the revision, and a break that it does not announce.
func (r *revision) check(log string) error {
	var wrong []error
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if r.released.above(r.version) {
		fail("info.version %v is below the released %v", r.version, r.released)
	}
	if r.breaks() {
		for _, c := range r.changes {
			if c.breaks {
				fail("breaks clients: %s", c)
			}
		}
		switch _, pending, _ := r.split(log); {
		case !r.version.mayBreak(r.released):
			fail("clients of %v do not expect that of %v: raise info.version", r.released, r.version)
		case strings.TrimSpace(pending.text) == "":
			fail("the changelog does not tell what clients have to do: write it under the heading of the version")
		default:
			wrong = nil
		}
	}
	if r.write(log) != log {
		fail("the changelog is not that of the document: run \"go tool task spec:changelog\"")
	}
	return errors.Join(wrong...)
}

func (c change) String() string {
	text := c.text
	if len(c.operations) > 0 {
		text += ": `" + strings.Join(c.operations, "`, `") + "`"
	}
	return text
}

const (
	listBegins = "<!-- made by task spec:changelog -->\n"
	listEnds   = "<!-- end -->\n"
)

// section is what the changelog says of one version: words written by hand, then the list of changes.
type section struct{ title, text string }

// split returns what comes before the section of what is not released yet, that section, and what follows it.
func (r *revision) split(log string) (head string, pending section, rest string) {
	head, rest = log, ""
	if at := strings.Index(log, "\n## "); at >= 0 {
		head, rest = log[:at+1], log[at+1:]
	}
	title, body, _ := strings.Cut(rest, "\n")
	if v, err := versionOf("  version: " + strings.TrimPrefix(title, "## ")); title != "## Unreleased" && (err != nil || !v.above(r.released)) {
		return head, pending, rest
	}
	pending.title = title
	next := ""
	if at := strings.Index(body, "\n## "); at >= 0 {
		body, next = body[:at+1], body[at+1:]
	}
	pending.text, _, _ = strings.Cut(body, listBegins)
	return head, pending, next
}

// write returns the changelog with the section of what is not released yet as it must be; words written by hand stay.
func (r *revision) write(log string) string {
	head, pending, rest := r.split(log)
	text := strings.TrimSpace(pending.text)
	if len(r.changes) == 0 && text == "" && !r.version.above(r.released) {
		return head + rest
	}
	var b strings.Builder
	b.WriteString(head + "## ")
	if r.version.above(r.released) {
		b.WriteString(r.version.String())
	} else {
		b.WriteString("Unreleased")
	}
	b.WriteString("\n\n")
	if text != "" {
		b.WriteString(text + "\n\n")
	}
	b.WriteString(listBegins)
	if len(r.changes) == 0 {
		b.WriteString("Descriptions and examples only.\n")
	}
	for _, c := range r.changes {
		if c.breaks {
			b.WriteString("- **Breaks clients**: " + c.String() + "\n")
		} else {
			b.WriteString("- " + c.String() + "\n")
		}
	}
	b.WriteString(listEnds)
	if rest != "" {
		b.WriteString("\n")
	}
	return b.String() + rest
}
