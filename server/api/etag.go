package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/litellm-agent-platform/lap/gen"
)

// etag is the entity tag of a version.
func etag(version int32) *string {
	tag := `"` + strconv.Itoa(int(version)) + `"`
	return &tag
}

// checkMatch refuses a change of an object whose version is not among those of an If-Match header; nil is no condition. Call it in
// the transaction that makes the change.
func checkMatch(ifMatch *string, version int32) error {
	if ifMatch == nil {
		return nil
	}
	tags, ok := parseMatch(*ifMatch)
	if !ok {
		return invalid([]gen.ErrorDetail{{Field: "header/If-Match", Message: "must be * or a list of entity tags in double quotes"}})
	}
	for _, tag := range tags {
		if tag == "*" || tag == *etag(version) {
			return nil
		}
	}
	return &problem{status: http.StatusPreconditionFailed, code: codePrecondition, text: "the object has changed: its ETag is not among those of If-Match"}
}

// parseMatch returns the tags of an If-Match header with their quotes, or "*" (RFC 9110, 13.1.1). Weak tags are left out: they never
// match.
func parseMatch(s string) (tags []string, ok bool) {
	if s = trimSpace(s); s == "*" {
		return []string{s}, true
	}
	seen := false // a list of nothing but commas is none
	for s != "" {
		if s[0] == ',' {
			s = trimSpace(s[1:])
			continue
		}
		strong, weak := strings.CutPrefix(s, "W/")
		end := tagEnd(strong)
		if end == 0 {
			return nil, false
		}
		if seen = true; !weak {
			tags = append(tags, strong[:end])
		}
		if s = trimSpace(strong[end:]); s != "" && s[0] != ',' {
			return nil, false
		}
	}
	return tags, seen
}

// tagEnd returns the length of the quoted tag that s begins with, 0 for none.
func tagEnd(s string) int {
	if s == "" || s[0] != '"' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c <= ' ' || c == 0x7f:
			return 0
		}
	}
	return 0
}

func trimSpace(s string) string { return strings.Trim(s, " \t") }
