// Package policy decides what a sandbox may reach. It owns the canonical forms of hosts, addresses and entries, which are parsed
// once, and the decision, a pure function that explains itself. It knows no network, no resolver and no session. Everything here
// is immutable once made, and so safe for concurrent use.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Spec is a policy as it is written down. Everything in it is for one attempt of one session.
type Spec struct {
	Routes     []string `json:"routes,omitempty"`      // host:port of the platform, as the model gateway
	AllowCIDRs []string `json:"allow_cidrs,omitempty"` // the operator's
	DenyCIDRs  []string `json:"deny_cidrs,omitempty"`  // the operator's
	DenyOut    []string `json:"deny_out,omitempty"`    // the agent's
	AgentHosts []string `json:"agent_hosts,omitempty"` // host:port of its repository and its MCP servers
	AllowOut   []string `json:"allow_out,omitempty"`   // the agent's; empty: every public address
	Indexes    []string `json:"indexes,omitempty"`     // entries for package indexes, open only while requirements install
	Observe    bool     `json:"observe,omitempty"`     // lets pass what only the agent's lists or the port deny, and says so
}

// Policy is a compiled Spec.
type Policy struct {
	routes, agentHosts    []endpoint
	allowCIDRs, denyCIDRs []Entry
	denyOut, allowOut     []Entry
	indexes               []Entry
	observe               bool
	allowRanges           bool // allowOut has an entry about addresses
	hash                  string
}

type endpoint struct {
	host Host
	port uint16
}

func (e endpoint) String() string {
	if a, ok := e.host.Addr(); ok && a.Is6() {
		return "[" + a.String() + "]:" + strconv.Itoa(int(e.port))
	}
	return e.host.String() + ":" + strconv.Itoa(int(e.port))
}

// New compiles a policy. The error names the field and the index of what cannot be read, and does not repeat it.
func New(s Spec) (*Policy, error) {
	p := &Policy{observe: s.Observe}
	for _, list := range []struct {
		name string
		from []string
		to   *[]endpoint
	}{{"routes", s.Routes, &p.routes}, {"agent_hosts", s.AgentHosts, &p.agentHosts}} {
		for i, text := range list.from {
			h, port, err := ParseAuthority(text, 0)
			if err != nil {
				return nil, fmt.Errorf("%s/%d: %w", list.name, i, err)
			}
			*list.to = append(*list.to, endpoint{h, port})
		}
	}
	for _, list := range []struct {
		name   string
		from   []string
		to     *[]Entry
		ranges bool
	}{
		{"allow_cidrs", s.AllowCIDRs, &p.allowCIDRs, true}, {"deny_cidrs", s.DenyCIDRs, &p.denyCIDRs, true},
		{"deny_out", s.DenyOut, &p.denyOut, false}, {"allow_out", s.AllowOut, &p.allowOut, false}, {"indexes", s.Indexes, &p.indexes, false},
	} {
		for i, text := range list.from {
			e, err := ParseEntry(text)
			if err != nil {
				return nil, fmt.Errorf("%s/%d: %w", list.name, i, err)
			}
			if list.ranges && !e.isRange() {
				return nil, fmt.Errorf("%s/%d: must be an IP address or a CIDR", list.name, i)
			}
			*list.to = append(*list.to, e)
		}
	}
	p.allowRanges = slices.ContainsFunc(p.allowOut, Entry.isRange)
	p.hash = p.sum()
	return p, nil
}

// Hash names the policy: equal for policies that decide alike because they have equal entries in the same order.
func (p *Policy) Hash() string { return p.hash }

// Spec returns the policy in canonical spelling: New makes an equal one of it.
func (p *Policy) Spec() Spec {
	return Spec{
		Routes: texts(p.routes), AllowCIDRs: texts(p.allowCIDRs), DenyCIDRs: texts(p.denyCIDRs), DenyOut: texts(p.denyOut),
		AgentHosts: texts(p.agentHosts), AllowOut: texts(p.allowOut), Indexes: texts(p.indexes), Observe: p.observe,
	}
}

func (p *Policy) sum() string {
	b, err := json.Marshal([]any{
		texts(p.routes), texts(p.allowCIDRs), texts(p.denyCIDRs), texts(p.denyOut), texts(p.agentHosts), texts(p.allowOut), texts(p.indexes), p.observe,
	})
	if err != nil {
		panic(err) // lists of strings always marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

func rangeOf(list []Entry, a netip.Addr) (Entry, bool) {
	for _, e := range list {
		if e.isRange() && e.prefix.Contains(a) {
			return e, true
		}
	}
	return Entry{}, false
}

func domainOf(list []Entry, name string) (Entry, bool) {
	for _, e := range list {
		if e.matchesName(name) {
			return e, true
		}
	}
	return Entry{}, false
}

func endpointOf(list []endpoint, h Host, port uint16) (endpoint, bool) {
	for _, e := range list {
		if e.host == h && e.port == port {
			return e, true
		}
	}
	return endpoint{}, false
}
