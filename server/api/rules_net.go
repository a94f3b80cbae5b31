package api

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
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
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Zone() == ""
	}
	return isDomain(host)
}

// isDomain tells whether s is a name of letter-digit-hyphen labels (A-labels for international ones) that no resolver could take
// for an address. One trailing dot is allowed.
func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return false
		}
	}
	last := strings.ToLower(labels[len(labels)-1])
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-')
	})
}

const egressForms = "must be a domain, *.domain, an IP address or a CIDR, without scheme, port or path"

// checkEgress says what is wrong with an entry of allow_out or deny_out.
func checkEgress(s string) string {
	if s == "" {
		return "" // minLength has said so
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return ""
	}
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		return ""
	}
	domain, wildcard := strings.CutPrefix(s, "*.")
	if !isDomain(domain) {
		return egressForms
	}
	if wildcard && !strings.Contains(strings.TrimSuffix(domain, "."), ".") {
		return "must not stand for a whole top-level domain"
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
