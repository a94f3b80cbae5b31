package policy_test

import (
	"net/netip"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func TestPublicRangesLeaveOutWhatIsNotPublic(t *testing.T) {
	t.Parallel()
	all := policy.Public()
	public := func(text string) bool {
		addr := netip.MustParseAddr(text)
		for whole, except := range all {
			if !whole.Contains(addr) {
				continue
			}
			for _, e := range except {
				if e.Contains(addr) {
					return false
				}
			}
			return true
		}
		return false
	}
	for _, addr := range []string{"1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "2606:4700::1111"} {
		if !public(addr) {
			t.Errorf("%s is not public", addr)
		}
	}
	for _, addr := range []string{
		"10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "0.0.0.0", "224.0.0.1",
		"255.255.255.255", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:0:1::1", "ff02::1",
	} {
		if public(addr) {
			t.Errorf("%s is public", addr)
		}
	}
	for whole, except := range all {
		for i, e := range except {
			if !whole.Contains(e.Addr()) || e.Bits() <= whole.Bits() {
				t.Errorf("%s is not in %s", e, whole)
			}
			for j, other := range except {
				if i != j && other.Contains(e.Addr()) && other.Bits() <= e.Bits() {
					t.Errorf("%s is in %s", e, other)
				}
			}
		}
	}
}
