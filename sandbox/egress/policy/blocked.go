package policy

import (
	"bytes"
	"net/netip"
)

// special are the ranges that are not the public Internet, or that lead to it by a detour which hides the address: the registries
// of special-purpose addresses of IANA (RFC 6890), and what clouds put beside them. The first that contains an address names it.
var special = ranges(
	"0.0.0.0/8", "an unspecified address",
	"10.0.0.0/8", "a private address",
	"100.100.100.200/32", "a metadata address",
	"100.64.0.0/10", "a shared address of a provider",
	"127.0.0.0/8", "a loopback address",
	"168.63.129.16/32", "a metadata address",
	"169.254.169.254/32", "a metadata address",
	"169.254.0.0/16", "a link-local address",
	"172.16.0.0/12", "a private address",
	"192.0.0.0/24", "a reserved address",
	"192.0.2.0/24", "a documentation address",
	"192.88.99.0/24", "an address of a 6to4 relay",
	"192.168.0.0/16", "a private address",
	"198.18.0.0/15", "a benchmarking address",
	"198.51.100.0/24", "a documentation address",
	"203.0.113.0/24", "a documentation address",
	"224.0.0.0/4", "a multicast address",
	"240.0.0.0/4", "a reserved address",

	"::/128", "an unspecified address",
	"::1/128", "a loopback address",
	"::ffff:0:0/96", "an IPv4 address in IPv6",
	"::/96", "an IPv4 address in IPv6",
	"64:ff9b::/96", "an IPv4 address in IPv6 (NAT64)",
	"64:ff9b:1::/48", "an IPv4 address in IPv6 (NAT64)",
	"2001::/32", "an IPv4 address in IPv6 (Teredo)",
	"2001::/23", "a reserved address",
	"2001:db8::/32", "a documentation address",
	"2002::/16", "an IPv4 address in IPv6 (6to4)",
	"3fff::/20", "a documentation address",
	"fd00:ec2::254/128", "a metadata address",
	"fc00::/7", "a private address",
	"fe80::/10", "a link-local address",
	"fec0::/10", "a site-local address",
	"ff00::/8", "a multicast address",
)

var public6 = netip.MustParsePrefix("2000::/3") // all that has been given out

type named struct {
	prefix netip.Prefix
	what   string
}

func ranges(pairs ...string) (list []named) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, named{netip.MustParsePrefix(pairs[i]), pairs[i+1]})
	}
	return list
}

// Blocked says in a few words why no sandbox may reach an address, and returns "" for one of the public Internet.
func Blocked(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.Zone() != "":
		return "an address with a zone"
	}
	for _, r := range special {
		if r.prefix.Contains(a) {
			return r.what
		}
	}
	if a.Is6() && !public6.Contains(a) {
		return "a reserved address"
	}
	if a.Is6() && isISATAP(a.As16()) {
		return "an IPv4 address in IPv6 (ISATAP)"
	}
	return ""
}

// isISATAP tells whether the interface identifier is that of RFC 5214, an IPv4 address after 00-00-5E-FE.
func isISATAP(b [16]byte) bool {
	return bytes.Equal(b[9:12], []byte{0x00, 0x5e, 0xfe}) && b[8]&^0x03 == 0
}
