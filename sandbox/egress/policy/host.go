package policy

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// Host is a canonical host: a name of lower-case A-labels without trailing dot, or an address. The zero value is no host. Hosts
// are equal if and only if their spellings name the same host.
type Host struct {
	name string
	addr netip.Addr
}

var (
	errHost      = errors.New("must be a host name or an IP address")
	errAuthority = errors.New("must be a host and a port")
)

// ParseHost reads a host name or an IP address without brackets. A name consists of letter-digit-hyphen labels that no resolver
// could take for an address; case and one trailing dot do not count. Zones are refused. A form of IPv6 that maps an IPv4 address
// stays what it is: Blocked says what it embeds.
func ParseHost(s string) (Host, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Host{}, errHost
		}
		return Host{addr: a}, nil
	}
	name, ok := parseName(s)
	if !ok {
		return Host{}, errHost
	}
	return Host{name: name}, nil
}

// ParseAuthority reads host:port as it stands in a CONNECT, an absolute URL or a Host header. IPv6 addresses are in brackets, and
// only they. Without port it is defaultPort; with 0 as that the port is required.
func ParseAuthority(s string, defaultPort uint16) (Host, uint16, error) {
	text, port := s, defaultPort
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		n, ok := parsePort(s[i+1:])
		if !ok {
			return Host{}, 0, errAuthority
		}
		text, port = s[:i], n
	}
	inner, bracketed := strings.CutPrefix(text, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return Host{}, 0, errAuthority
		}
	}
	h, err := ParseHost(inner)
	if err != nil || port == 0 || bracketed != (h.addr.IsValid() && h.addr.Is6()) {
		return Host{}, 0, errAuthority
	}
	return h, port, nil
}

// parsePort accepts what strconv does, but no sign and no leading zero.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && s[0] != '0' && s[0] != '+'
}

// Addr returns the address, if the host is one.
func (h Host) Addr() (netip.Addr, bool) { return h.addr, h.addr.IsValid() }

// Name returns the name; empty if the host is an address.
func (h Host) Name() string { return h.name }

// IsZero tells whether it is no host.
func (h Host) IsZero() bool { return h == Host{} }

// String returns the canonical spelling, without brackets.
func (h Host) String() string {
	if h.addr.IsValid() {
		return h.addr.String()
	}
	return h.name
}

// parseName returns the canonical form of a host name.
func parseName(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return "", false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return "", false
		}
		last = label
	}
	s, last = strings.ToLower(s), strings.ToLower(last)
	// A resolver may take a name that ends in a number, decimal or hexadecimal, for an address.
	return s, strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}
