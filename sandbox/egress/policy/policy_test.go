package policy_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// scenario is one of ../testdata/decisions.json, which the proxy is held to as well.
type scenario struct {
	Name       string
	Policy     policy.Spec
	Installing bool
	DNS        map[string]struct{ Addrs, Names []string }
	Attempts   []struct {
		Target, Want string
		Rule         policy.Rule
		Observe      bool
	}
}

func scenarios(t *testing.T) (list []scenario) {
	t.Helper()
	b, err := os.ReadFile("../testdata/decisions.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &list); err != nil || len(list) == 0 {
		t.Fatalf("%d scenarios: %v", len(list), err)
	}
	return list
}

func TestEveryAttemptOfTheCorpusIsDecidedAsItSays(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios(t) {
		p := compile(t, s.Policy)
		for _, a := range s.Attempts {
			if got, d := s.decide(p, a.Target); got != a.Want || d.Rule != a.Rule || d.Observe != a.Observe {
				t.Errorf("%s: %s: got %s %+v, want %s by %q", s.Name, a.Target, got, d, a.Want, a.Rule)
			}
		}
	}
}

func (s scenario) decide(p *policy.Policy, target string) (string, policy.Decision) {
	verdict := map[bool]string{true: "allow", false: "deny"}
	h, port, err := policy.ParseAuthority(target, 0)
	if err != nil {
		return "invalid", policy.Decision{}
	}
	a := policy.Attempt{Host: h, Port: port, Installing: s.Installing}
	if d, ok := p.Foresee(a); ok && !d.Allowed {
		return "deny", d
	}
	if addr, ok := h.Addr(); ok {
		a.Addrs = []netip.Addr{addr}
	} else if answer, ok := s.DNS[h.Name()]; ok {
		a.Addrs, a.Names = addrs(answer.Addrs...), answer.Names
	} else {
		return "unresolved", policy.Decision{}
	}
	d := p.Decide(a)
	return verdict[d.Allowed], d
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func compile(t testing.TB, s policy.Spec) *policy.Policy {
	t.Helper()
	p, err := policy.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestADenialNamesTheEntryAndAReason(t *testing.T) {
	t.Parallel()
	p := compile(t, policy.Spec{DenyOut: []string{"*.Example.com."}, AllowOut: []string{"example.org"}})
	h, _ := policy.ParseHost("a.example.com")
	d := p.Decide(policy.Attempt{Host: h, Port: 443, Addrs: addrs("8.8.8.8")})
	if d.Allowed || d.Entry != "*.example.com" || d.Reason != "the agent's deny_out has it" {
		t.Errorf("got %+v", d)
	}
	private, _ := policy.ParseHost("example.org")
	d = p.Decide(policy.Attempt{Host: private, Port: 443, Addrs: addrs("1.1.1.1", "169.254.169.254")})
	if d.Allowed || d.Entry != "169.254.169.254" || d.Reason != "it is or resolves to a metadata address" {
		t.Errorf("got %+v", d)
	}
}

func TestAPolicyWithAnUnreadableEntryIsNone(t *testing.T) {
	t.Parallel()
	for field, s := range map[string]policy.Spec{
		"routes/0":      {Routes: []string{"gateway"}},
		"agent_hosts/1": {AgentHosts: []string{"github.com:443", "user@h:1"}},
		"allow_cidrs/0": {AllowCIDRs: []string{"example.com"}},
		"deny_cidrs/0":  {DenyCIDRs: []string{"10.0.0.0/99"}},
		"deny_out/1":    {DenyOut: []string{"example.com", "*"}},
		"allow_out/0":   {AllowOut: []string{"*.com"}},
		"indexes/0":     {Indexes: []string{""}},
	} {
		if p, err := policy.New(s); err == nil || p != nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestTheHashIsOfWhatAPolicyDecidesBy(t *testing.T) {
	t.Parallel()
	base := policy.Spec{
		Routes: []string{"g:4000"}, AllowCIDRs: []string{"10.0.0.0/8"}, DenyCIDRs: []string{"1.1.1.1"}, DenyOut: []string{"a.com"},
		AgentHosts: []string{"github.com:443"}, AllowOut: []string{"b.com"}, Indexes: []string{"pypi.org"},
	}
	spelt := base
	spelt.Routes, spelt.DenyOut, spelt.AllowCIDRs = []string{"G.:4000"}, []string{"A.com."}, []string{"10.9.9.9/8"}
	if a, b := compile(t, base).Hash(), compile(t, spelt).Hash(); a != b || len(a) != 32 {
		t.Errorf("equal policies have hashes %s and %s", a, b)
	}
	seen := map[string]bool{compile(t, base).Hash(): true}
	for _, change := range []func(*policy.Spec){
		func(s *policy.Spec) { s.Routes = []string{"g:4001"} }, func(s *policy.Spec) { s.AllowCIDRs = nil }, func(s *policy.Spec) { s.DenyCIDRs = nil },
		func(s *policy.Spec) { s.DenyOut = []string{"*.a.com"} }, func(s *policy.Spec) { s.AgentHosts = nil }, func(s *policy.Spec) { s.AllowOut = nil },
		func(s *policy.Spec) { s.Indexes = nil }, func(s *policy.Spec) { s.Observe = true },
	} {
		other := base
		change(&other)
		if h := compile(t, other).Hash(); seen[h] {
			t.Errorf("%+v has the hash of another policy", other)
		} else {
			seen[h] = true
		}
	}
}

func TestHostsHaveOneSpelling(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Example.COM.": "example.com", "a": "a", "1.2.3.4": "1.2.3.4", "2001:DB8:0::1": "2001:db8::1", "::ffff:1.2.3.4": "::ffff:1.2.3.4",
		"xn--MNCHEN-3ya.de": "xn--mnchen-3ya.de", strings.Repeat("a", 63) + ".b": strings.Repeat("a", 63) + ".b",
	} {
		h, err := policy.ParseHost(in)
		if err != nil || h.String() != want || h.IsZero() {
			t.Errorf("%q is %q, %v; want %q", in, h, err, want)
		}
	}
	long := strings.Repeat("a.", 126) + "a" // 253
	if _, err := policy.ParseHost(long + "."); err != nil {
		t.Errorf("253 bytes and a dot: %v", err)
	}
	if _, err := policy.ParseHost(long + "a"); err == nil {
		t.Error("254 bytes pass")
	}
}

func TestEveryByteBesideAHostNameIsRefused(t *testing.T) {
	t.Parallel()
	const legal = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	for c := range 256 {
		s := "a" + string([]byte{byte(c)}) + "a.com"
		_, err := policy.ParseHost(s)
		if ok := strings.ContainsRune(legal+".", rune(c)) && c < 128; (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestEntriesAreWrittenInOneWay(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"*.Example.com.": "*.example.com", "EXAMPLE.com": "example.com", "10.1.2.3/8": "10.0.0.0/8", "1.2.3.4": "1.2.3.4", "1.2.3.4/32": "1.2.3.4",
		"::ffff:1.2.3.4": "1.2.3.4", "::ffff:10.1.2.3/104": "10.0.0.0/8", "2001:DB8::5/32": "2001:db8::/32", "::ffff:0:0/90": "::ffc0:0:0/90",
	} {
		e, err := policy.ParseEntry(in)
		if err != nil || e.String() != want {
			t.Errorf("%q is %q, %v; want %q", in, e, err, want)
		}
		if again, err := policy.ParseEntry(e.String()); err != nil || again != e {
			t.Errorf("%q is not what %q says: %v", e, in, err)
		}
	}
}

func TestOnlyThePublicInternetIsNotBlocked(t *testing.T) {
	t.Parallel()
	open := []string{"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "126.255.255.255", "128.0.0.1", "172.15.255.255", "192.0.1.1", "192.169.0.1", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:200::1", "2003::1", "2606:4700::1111", "2a00:1450::5eff:1:1"}
	for _, s := range open {
		if what := policy.Blocked(netip.MustParseAddr(s)); what != "" {
			t.Errorf("%s is %s", s, what)
		}
	}
	for _, s := range []string{"fe80::1%eth0", "::ffff:8.8.8.8", "::8.8.8.8", "1fff::1", "4000::", "5f00::1", "100::1", "2001:1ff::1", "3fff::1"} {
		if policy.Blocked(netip.MustParseAddr(s)) == "" {
			t.Errorf("%s is not blocked", s)
		}
	}
	if policy.Blocked(netip.Addr{}) == "" {
		t.Error("no address is not blocked")
	}
	if i := slices.IndexFunc(open, func(s string) bool {
		a := netip.MustParseAddr(s)
		return a.IsPrivate() || a.IsLoopback() || a.IsMulticast() || !a.IsGlobalUnicast()
	}); i >= 0 {
		t.Errorf("%s is no public address", open[i])
	}
}
