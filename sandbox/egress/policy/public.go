package policy

import "net/netip"

// Public describes public addresses as a firewall can: ranges, and what is left out of each. Every exception lies in its range,
// and none in another.
func Public() map[netip.Prefix][]netip.Prefix {
	all := map[netip.Prefix][]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"): nil, public6: nil}
	for whole := range all {
		for _, s := range special {
			if within(s.prefix, whole) && !coveredByAnother(s.prefix) {
				all[whole] = append(all[whole], s.prefix)
			}
		}
	}
	return all
}

func within(p, whole netip.Prefix) bool {
	return p.Addr().Is4() == whole.Addr().Is4() && p.Bits() > whole.Bits() && whole.Contains(p.Addr())
}

func coveredByAnother(p netip.Prefix) bool {
	for _, s := range special {
		if within(p, s.prefix) {
			return true
		}
	}
	return false
}
