package policy

import (
	"errors"
	"net/netip"
	"strings"
)

// Entry is one line of allow_out or deny_out: a domain, a domain with all below it, an address or a range of addresses.
type Entry struct {
	name   string // of a domain
	below  bool   // and every sub-domain
	prefix netip.Prefix
}

var (
	errEntry = errors.New("must be a domain, *.domain, an IP address or a CIDR, without scheme, port or path")
	errTop   = errors.New("must not stand for a whole top-level domain")
)

// ParseEntry reads an entry. The error is a sentence for its author and does not repeat the entry.
func ParseEntry(s string) (Entry, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return Entry{prefix: canonicalPrefix(p)}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Entry{}, errEntry
		}
		return Entry{prefix: canonicalPrefix(netip.PrefixFrom(a, a.BitLen()))}, nil
	}
	domain, below := strings.CutPrefix(s, "*.")
	name, ok := parseName(domain)
	if !ok {
		return Entry{}, errEntry
	}
	if below && !strings.Contains(name, ".") {
		return Entry{}, errTop
	}
	return Entry{name: name, below: below}, nil
}

// canonicalPrefix masks a prefix, and turns one of IPv4-mapped addresses into the one that it maps.
func canonicalPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// isRange tells whether the entry is about addresses.
func (e Entry) isRange() bool { return e.prefix.IsValid() }

// matchesName tells whether a canonical name is the entry's domain or, where it says so, below it.
func (e Entry) matchesName(name string) bool {
	if name == "" || e.name == "" {
		return false
	}
	return name == e.name || e.below && strings.HasSuffix(name, "."+e.name)
}

// String returns the canonical spelling.
func (e Entry) String() string {
	switch {
	case e.prefix.IsValid() && e.prefix.IsSingleIP():
		return e.prefix.Addr().String()
	case e.prefix.IsValid():
		return e.prefix.String()
	case e.below:
		return "*." + e.name
	}
	return e.name
}
