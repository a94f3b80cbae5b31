package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// checkRepoURL says what is wrong with the URL of a repository.
func checkRepoURL(s string, schemes []string) string {
	if scheme, rest, _ := strings.Cut(s, "://"); strings.EqualFold(scheme, "file") && slices.Contains(schemes, "file") {
		if !strings.HasPrefix(rest, "/") || hasControl(s) {
			return "must be file:// and an absolute path"
		}
		return ""
	}
	return checkWebURL(s, schemes...)
}

// checkWebURL says what is wrong with a URL that must be absolute, with a host and one of the schemes, and without user, fragment,
// white space and control characters.
func checkWebURL(s string, schemes ...string) string {
	if hasControl(s) || strings.ContainsAny(s, " \\") {
		return "must not have white space, backslashes or control characters"
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "" || !slices.Contains(schemes, strings.ToLower(u.Scheme)):
		return "must be an absolute URL with a host that starts with " + strings.Join(schemes, ":// or ") + "://"
	case u.User != nil:
		return "must not have a user or password"
	case strings.Contains(s, "#"):
		return "must not have a fragment"
	case !isHost(u.Hostname()):
		return "must have a host name or IP address"
	case !isPort(u.Port()):
		return "must have a port of 1 to 65535, if any"
	}
	return ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" || err == nil && n > 0
}

func isHost(host string) bool {
	_, err := policy.ParseHost(host)
	return err == nil
}

// checkEgress says what is wrong with an entry of allow_out or deny_out.
func checkEgress(s string) string {
	if s == "" {
		return "" // minLength has said so
	}
	if _, err := policy.ParseEntry(s); err != nil {
		return err.Error()
	}
	return ""
}

// checkBranch says what is wrong with the name of a branch: the rules of git check-ref-format, and no leading hyphen, which a
// command line would take for an option.
func checkBranch(s string) string {
	const illegal = "must be a legal git branch name"
	if s == "" || s == "@" || strings.HasPrefix(s, "-") || strings.HasSuffix(s, ".") || hasControl(s) ||
		strings.ContainsAny(s, " ~^:?*[\\") || strings.Contains(s, "..") || strings.Contains(s, "@{") {
		return illegal
	}
	for component := range strings.SplitSeq(s, "/") {
		if component == "" || strings.HasPrefix(component, ".") || strings.HasSuffix(component, ".lock") {
			return illegal
		}
	}
	return ""
}
