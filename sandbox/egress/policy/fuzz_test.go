package policy_test

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func FuzzAuthoritiesHaveOneReading(f *testing.F) {
	for _, s := range []string{
		"example.com:443", "EXAMPLE.com.:80", "[::1]:80", "[::1]", "::1", "1.2.3.4:80", "1.2.3.4", "h:1:2", "user@h:1", "[::ffff:1.2.3.4]:1", "[fe80::1%25eth0]:80", "a%00:1", "0x7f.1:80",
		"2130706433:80", ":80", "h:", "h:0", "h:00080", "h:65536", "[]:1", "[a]:1", "a_b:1", "exаmple.com:1", "h:+1", "a..b:1", ".:1", "[1.2.3.4]:80",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, port, err := policy.ParseAuthority(s, 0)
		if err != nil {
			if !h.IsZero() || port != 0 {
				t.Fatalf("%q: refused, but is %v and %d", s, h, port)
			}
			return
		}
		host, text, err := net.SplitHostPort(s)
		if err != nil || h.IsZero() || port == 0 || text != strconv.Itoa(int(port)) {
			t.Fatalf("%q: %v %d, but net says %q %q %v", s, h, port, host, text, err)
		}
		addr, literal := h.Addr()
		if netAddr, err := netip.ParseAddr(host); literal != (err == nil) || literal && netAddr != addr {
			t.Fatalf("%q: %v, but netip says %v %v", s, addr, netAddr, err)
		}
		if !literal && h.Name() != strings.ToLower(strings.TrimSuffix(host, ".")) {
			t.Fatalf("%q: name %q", s, h.Name())
		}
		if again, port2, err := policy.ParseAuthority(net.JoinHostPort(h.String(), text), 0); err != nil || again != h || port2 != port {
			t.Fatalf("%q: %v read again is %v, %v", s, h, again, err)
		}
		if strings.ContainsFunc(h.String(), func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("@/\\%?#*_", r) }) {
			t.Fatalf("%q: %q is no host", s, h)
		}
	})
}

func FuzzNoListOpensWhatAnEarlierRuleCloses(f *testing.F) {
	f.Add("gateway:4000", "10.0.0.0/8", "1.1.1.1", "*.bad.com", "github.com:443", "pypi.org", "pypi.org", "files.pypi.org:443", "151.101.0.223,10.0.0.1", "a.bad.com", false, false)
	f.Add("", "", "", "", "", "", "", "example.com:25", "8.8.8.8", "", true, false)
	f.Add("", "", "", "1.2.3.0/24", "", "1.2.0.0/16", "", "h.com:443", "1.2.4.1", "", false, false)
	f.Add("", "::ffff:0:0/96", "::/0", "::1", "[::1]:22", "fd00::/8", "", "[::1]:22", "::1", "", false, true)
	f.Add("", "", "", "", "h.com:22", "x.com", "h.com", "h.com:22", "8.8.8.8,2606:4700::1", "x.com", false, true)
	f.Fuzz(func(t *testing.T, route, allowCIDR, denyCIDR, denyOut, agentHost, allowOut, index, target, answers, alias string, observe, installing bool) {
		spec := policy.Spec{
			Routes: fields(route), AllowCIDRs: fields(allowCIDR), DenyCIDRs: fields(denyCIDR), DenyOut: fields(denyOut),
			AgentHosts: fields(agentHost), AllowOut: fields(allowOut), Indexes: fields(index), Observe: observe,
		}
		p, err := policy.New(spec)
		if err != nil {
			return
		}
		a := policy.Attempt{Names: fields(alias), Installing: installing}
		if a.Host, a.Port, err = policy.ParseAuthority(target, 0); err != nil {
			return
		}
		for _, s := range fields(answers) {
			if addr, err := netip.ParseAddr(s); err == nil {
				a.Addrs = append(a.Addrs, addr)
			}
		}
		if addr, ok := a.Host.Addr(); ok {
			a.Addrs = []netip.Addr{addr}
		}
		got := p.Decide(a)
		if want, rule := oracle(spec, a); got.Allowed != want || got.Rule != rule {
			t.Fatalf("%+v: %+v: got %+v, want %v by %s", spec, a, got, want, rule)
		}
		if early, ok := p.Foresee(a); ok && len(a.Addrs) > 0 && early.Allowed != got.Allowed {
			t.Fatalf("%+v: %+v: foreseen %+v, decided %+v", spec, a, early, got)
		}
		if got.Reason == "" || got.Observe && !observe {
			t.Fatalf("%+v does not explain itself", got)
		}
	})
}

func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// oracle says CONTRACT's order once more, in strings and without any preparation.
func oracle(s policy.Spec, a policy.Attempt) (bool, policy.Rule) {
	self := net.JoinHostPort(a.Host.String(), strconv.Itoa(int(a.Port)))
	low := a.Port < 1024 && a.Port != 80 && a.Port != 443
	agent := named(s.AgentHosts, func(h string, port int) bool { return h == a.Host.String() })
	switch {
	case len(a.Addrs) == 0:
		return false, policy.RuleBlocked
	case named(s.Routes, func(h string, port int) bool { return net.JoinHostPort(h, strconv.Itoa(port)) == self }):
		return true, policy.RulePlatform
	case all(a.Addrs, s.AllowCIDRs):
		return true, policy.RuleOperatorOpen
	case some(a.Addrs, s.DenyCIDRs):
		return false, policy.RuleOperatorDeny
	}
	for _, addr := range a.Addrs {
		if policy.Blocked(addr) != "" {
			return false, policy.RuleBlocked
		}
	}
	switch {
	case low && !named(s.AgentHosts, func(h string, port int) bool { return net.JoinHostPort(h, strconv.Itoa(port)) == self }):
		return s.Observe, policy.RulePort
	case some(a.Addrs, s.DenyOut) || has(s.DenyOut, append(a.Names, a.Host.Name())...):
		return s.Observe, policy.RuleDenyOut
	case agent:
		return true, policy.RuleAgentHost
	case a.Installing && has(s.Indexes, a.Host.Name()):
		return true, policy.RuleIndex
	case len(s.AllowOut) == 0:
		return true, policy.RulePublic
	case has(s.AllowOut, a.Host.Name()) || all(a.Addrs, s.AllowOut):
		return true, policy.RuleAllowOut
	}
	return s.Observe, policy.RuleAllowOut
}

func named(list []string, match func(host string, port int) bool) bool {
	for _, s := range list {
		h, port, _ := net.SplitHostPort(s)
		n, _ := strconv.Atoi(port)
		if addr, err := netip.ParseAddr(h); err == nil {
			h = addr.String()
		}
		if match(strings.ToLower(strings.TrimSuffix(h, ".")), n) {
			return true
		}
	}
	return false
}

func has(list []string, names ...string) bool {
	for _, s := range list {
		s = strings.ToLower(strings.TrimSuffix(s, "."))
		below, wild := strings.CutPrefix(s, "*.")
		for _, n := range names {
			if n != "" && (n == below || wild && strings.HasSuffix(n, "."+below)) {
				return true
			}
		}
	}
	return false
}

func within(a netip.Addr, list []string) bool {
	for _, s := range list {
		e, err := policy.ParseEntry(s)
		if err != nil {
			continue
		}
		if p, err := netip.ParsePrefix(e.String()); err == nil && p.Contains(a) {
			return true
		}
		if single, err := netip.ParseAddr(e.String()); err == nil && single == a {
			return true
		}
	}
	return false
}

func all(addrs []netip.Addr, list []string) bool {
	for _, a := range addrs {
		if !within(a, list) {
			return false
		}
	}
	return true
}

func some(addrs []netip.Addr, list []string) bool {
	for _, a := range addrs {
		if within(a, list) {
			return true
		}
	}
	return false
}
