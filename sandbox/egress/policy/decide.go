package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Rule names what decided. The values are stable: they stand in answers, events and metrics.
type Rule string

// The rules, in the order in which they are asked; the first that matches decides.
const (
	RulePlatform     Rule = "platform"      // allow: the model gateway, or another route of the platform
	RuleOperatorOpen Rule = "allow_cidrs"   // allow: every address is in the operator's EGRESS_ALLOW_CIDRS
	RuleOperatorDeny Rule = "deny_cidrs"    // deny: an address is in the operator's EGRESS_DENY_CIDRS
	RuleBlocked      Rule = "blocked"       // deny: an address is not of the public Internet
	RulePort         Rule = "port"          // deny: a port below 1024 other than 80 and 443 that nobody named
	RuleDenyOut      Rule = "deny_out"      // deny: an entry of the agent
	RuleAgentHost    Rule = "agent_host"    // allow: the agent's repository or one of its MCP servers
	RuleIndex        Rule = "package_index" // allow, while requirements install
	RuleAllowOut     Rule = "allow_out"     // allow by an entry of the agent, or deny because none matches
	RulePublic       Rule = "public"        // allow: a public address, and the agent has no allow_out
)

// Attempt is a connection that something in a sandbox wants.
type Attempt struct {
	Host       Host         // asked for
	Port       uint16       // asked for
	Addrs      []netip.Addr // what the host resolved to, all of it; for an address itself
	Names      []string     // canonical names that the resolver passed on the way (CNAME)
	Installing bool         // requirements are being installed
}

// Decision is a verdict that explains itself.
type Decision struct {
	Allowed bool   `json:"allowed"`
	Rule    Rule   `json:"rule"`
	Entry   string `json:"entry,omitempty"`   // what of the rule matched
	Reason  string `json:"reason"`            // one sentence
	Observe bool   `json:"observe,omitempty"` // allowed only because the policy observes
}

// Decide applies the rules in their order. An attempt without address is denied.
func (p *Policy) Decide(a Attempt) Decision {
	if d, ok := p.platform(a); ok {
		return d
	}
	if d, ok := p.blocked(a.Addrs); ok {
		return d
	}
	return p.lenient(p.agents(a))
}

// Foresee decides by host and port alone what no address could change, so that a name that is denied in any case is never
// resolved: a query is a message to whoever owns the name. It returns false where addresses matter. A host that is allowed for
// certain has still to be resolved before it is dialed.
func (p *Policy) Foresee(a Attempt) (Decision, bool) {
	if addr, literal := a.Host.Addr(); literal {
		a.Addrs = []netip.Addr{addr}
		return p.Decide(a), true
	}
	if e, ok := endpointOf(p.routes, a.Host, a.Port); ok {
		return allow(RulePlatform, e.String(), "it is a route of the platform"), true
	}
	if p.observe || len(p.allowCIDRs) > 0 {
		return Decision{}, false
	}
	if d, ok := p.port(a); ok {
		return d, true
	}
	if d, ok := p.denied(a); ok {
		return d, true
	}
	if len(p.allowOut) == 0 || p.allowRanges {
		return Decision{}, false
	}
	d := p.opened(a)
	return d, !d.Allowed
}

func (p *Policy) platform(a Attempt) (Decision, bool) {
	if len(a.Addrs) == 0 {
		return deny(RuleBlocked, "", "it has no address"), true
	}
	if e, ok := endpointOf(p.routes, a.Host, a.Port); ok {
		return allow(RulePlatform, e.String(), "it is a route of the platform"), true
	}
	if e, ok := p.allIn(p.allowCIDRs, a.Addrs); ok {
		return allow(RuleOperatorOpen, e, "the operator allows its address"), true
	}
	return Decision{}, false
}

func (p *Policy) blocked(addrs []netip.Addr) (Decision, bool) {
	for _, addr := range addrs {
		if e, ok := rangeOf(p.denyCIDRs, addr); ok {
			return deny(RuleOperatorDeny, e.String(), "the operator denies its address"), true
		}
	}
	for _, addr := range addrs {
		if what := Blocked(addr); what != "" {
			return deny(RuleBlocked, addr.String(), "it is or resolves to "+what), true
		}
	}
	return Decision{}, false
}

// agents decides by port and by the agent's own lists.
func (p *Policy) agents(a Attempt) Decision {
	if d, ok := p.port(a); ok {
		return d
	}
	if d, ok := p.denied(a); ok {
		return d
	}
	return p.opened(a)
}

func (p *Policy) port(a Attempt) (Decision, bool) {
	if a.Port >= 1024 || a.Port == 80 || a.Port == 443 {
		return Decision{}, false
	}
	if _, ok := endpointOf(p.agentHosts, a.Host, a.Port); ok {
		return Decision{}, false
	}
	return deny(RulePort, fmt.Sprint(a.Port), "ports below 1024 other than 80 and 443 are closed"), true
}

func (p *Policy) denied(a Attempt) (Decision, bool) {
	for _, name := range append([]string{a.Host.Name()}, a.Names...) {
		if e, ok := domainOf(p.denyOut, name); ok {
			return deny(RuleDenyOut, e.String(), "the agent's deny_out has it"), true
		}
	}
	for _, addr := range a.Addrs {
		if e, ok := rangeOf(p.denyOut, addr); ok {
			return deny(RuleDenyOut, e.String(), "the agent's deny_out has its address"), true
		}
	}
	return Decision{}, false
}

func (p *Policy) opened(a Attempt) Decision {
	if i := slices.IndexFunc(p.agentHosts, func(e endpoint) bool { return e.host == a.Host }); i >= 0 {
		return allow(RuleAgentHost, p.agentHosts[i].host.String(), "it is the host of the agent's repository or of an MCP server")
	}
	if a.Installing {
		if e, ok := domainOf(p.indexes, a.Host.Name()); ok {
			return allow(RuleIndex, e.String(), "requirements are being installed")
		}
	}
	if len(p.allowOut) == 0 {
		return allow(RulePublic, "", "it is public, and the agent has no allow_out")
	}
	if e, ok := domainOf(p.allowOut, a.Host.Name()); ok {
		return allow(RuleAllowOut, e.String(), "the agent's allow_out has it")
	}
	if e, ok := p.allIn(p.allowOut, a.Addrs); ok {
		return allow(RuleAllowOut, e, "the agent's allow_out has its address")
	}
	return deny(RuleAllowOut, "", "the agent's allow_out does not have it")
}

// allIn tells whether every address is in an entry of the list, and returns the one of the first.
func (p *Policy) allIn(list []Entry, addrs []netip.Addr) (string, bool) {
	first := ""
	for i, addr := range addrs {
		e, ok := rangeOf(list, addr)
		if !ok {
			return "", false
		}
		if i == 0 {
			first = e.String()
		}
	}
	return first, len(addrs) > 0
}

// lenient turns a denial into a permission that says so, if the policy observes.
func (p *Policy) lenient(d Decision) Decision {
	if p.observe && !d.Allowed {
		d.Allowed, d.Observe = true, true
	}
	return d
}

func allow(r Rule, entry, reason string) Decision {
	return Decision{Allowed: true, Rule: r, Entry: entry, Reason: reason}
}

func deny(r Rule, entry, reason string) Decision {
	return Decision{Rule: r, Entry: entry, Reason: reason}
}
