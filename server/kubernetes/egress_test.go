package kubernetes_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/servertest"
)

// look tries hosts with what the environment of a harness says, and prints one line a finding.
const look = `
import json, os, urllib.error, urllib.request
for url in ["allowed.example", "denied.example", "other.example", "inside.example", "169.254.169.254", "10.0.0.1"]:
    try:
        print(url, urllib.request.urlopen("http://" + url + "/", timeout=30).status, ";")
    except urllib.error.HTTPError as e:
        print(url, e.code, json.load(e).get("rule"), ";")
    except Exception as e:
        print(url, "failed", type(e).__name__, ";")
print("relay=" + os.environ["HTTP_PROXY"])
`

func (p *proxied) agent(s *server, deny ...string) string {
	p.t.Helper()
	a, err := s.api.CreateAgentWithResponse(p.t.Context(), nil, client.AgentCreate{
		Model: "demo/egress", AllowOut: nullable.NewNullableWithValue([]string{"allowed.example", "denied.example", "inside.example"}),
		DenyOut:      nullable.NewNullableWithValue(deny),
		SandboxFiles: nullable.NewNullableWithValue([]client.SandboxFileCreate{{Name: "look", SandboxPath: "~/look.py", Content: []byte(look)}}),
	})
	if err != nil || a.JSON200 == nil {
		p.t.Fatalf("create agent: %v", err)
	}
	return a.JSON200.ID
}

func (s *server) openFor(agent string) string {
	s.t.Helper()
	o, err := s.api.CreateSessionWithResponse(s.t.Context(), agent, nil, client.SessionCreate{})
	if err != nil || o.JSON200 == nil {
		s.t.Fatalf("open session: %v", err)
	}
	s.await(o.JSON200.ID, client.SessionStatusReady)
	return o.JSON200.ID
}

func (s *server) egress(id string) client.EgressReport {
	s.t.Helper()
	r, err := s.api.GetSessionEgressWithResponse(s.t.Context(), id)
	if err != nil || r.JSON200 == nil {
		s.t.Fatalf("egress: %v %s", err, r.Body)
	}
	return *r.JSON200
}

// relayOf runs look and returns where the pod's relay is.
func (s *server) relayOf(id string, want ...string) string {
	s.t.Helper()
	said := s.say(id, "RUN: python3 ~/look.py")
	for _, w := range want {
		if !strings.Contains(said, w+" ;") {
			s.t.Errorf("no %q in %q", w, said)
		}
	}
	m := regexp.MustCompile(`relay=(http://127\.0\.0\.1:\d+)`).FindStringSubmatch(said)
	if m == nil {
		s.t.Fatalf("no relay in %q", said)
	}
	return m[1]
}

func TestPodsReachWhatTheirAgentsMayThroughTheProxyAndNoServerNeedsToBeThere(t *testing.T) {
	if !servertest.InNetwork(t) {
		return
	}
	serveInternet(t)
	p := newProxied(t)
	stranger := p.startReplica(p.feed, "not-the-secret-canary")
	s := p.start()
	p.eventually("both replicas are ready", func() bool { return p.replicas[0].probe("readyz") == 200 && p.replicas[1].probe("readyz") == 200 })
	if got := s.egressCheck(); got.Status != "ok" || !got.Message.IsNull() {
		t.Errorf("health says %+v", got)
	}
	agent := p.agent(s, "denied.example")
	id := s.openFor(agent)
	relay := s.relayOf(id, "allowed.example 200", "denied.example 403 deny_out", "other.example 403 allow_out", "inside.example 403 blocked",
		"169.254.169.254 403 blocked", "10.0.0.1 403 blocked")
	p.checkTold(s, id)

	// Another policy is another session's; this one goes on with its own.
	if r, err := s.api.UpdateAgentWithResponse(t.Context(), agent, nil, client.AgentUpdate{DenyOut: nullable.NewNullableWithValue([]string{"allowed.example"})}); err != nil || r.JSON200 == nil {
		t.Fatalf("update agent: %v %s", err, r.Body)
	}
	second := s.openFor(agent)
	secondRelay := s.relayOf(second, "allowed.example 403 deny_out", "denied.example 200")
	s.relayOf(id, "allowed.example 200", "denied.example 403 deny_out")

	// Tunnels through both replicas.
	var tunnels []*tunnel
	for range 4 {
		c, status := open(t, relay, "allowed.example:7000")
		if status != http.StatusOK || !c.answers() {
			t.Fatalf("a tunnel: %d", status)
		}
		tunnels = append(tunnels, c)
	}

	s.kill()
	p.eventually("both streams are lost", func() bool {
		return p.replicas[0].metric(t, "lap_egress_streams") == "0" && p.replicas[1].metric(t, "lap_egress_streams") == "0"
	})
	for i, c := range tunnels {
		if !c.answers() {
			t.Errorf("tunnel %d ended with the server", i)
		}
	}
	for i, want := range []int{200, 200, 403, 403} {
		host := []string{"allowed.example:7000", "denied.example:80"}[i/2]
		if _, status := open(t, relay, host); status != want {
			t.Errorf("without a server, %s: %d", host, status)
		}
	}
	p.checkStranger(stranger)

	// A replica that dies takes its tunnels along, and the other serves all. A new one knows nothing yet, and gets no connections.
	p.replicas[0].kill()
	p.replicas[0] = p.startReplica(p.feed, "egress-secret-canary")
	p.service.set([]*replica{p.replicas[0], p.replicas[1]})
	if got := p.replicas[0].probe("readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("a replica that knows nothing is ready: %d", got)
	}
	var alive []*tunnel
	for _, c := range tunnels {
		if c.answers() {
			alive = append(alive, c)
		}
	}
	if len(alive) == 0 || len(alive) == len(tunnels) {
		t.Errorf("of %d tunnels %d are alive with one of two replicas", len(tunnels), len(alive))
	}
	for range 3 {
		if c, status := open(t, relay, "allowed.example:7000"); status != http.StatusOK || !c.answers() {
			t.Errorf("with one replica: %d", status)
		}
	}

	s = p.startAt(strings.TrimPrefix(s.url, "http://"), s.dir)
	p.eventually("both replicas are told again", func() bool {
		return p.replicas[0].metric(t, "lap_egress_attempts") == "2" && p.replicas[1].metric(t, "lap_egress_attempts") == "2"
	})
	for i, c := range alive {
		if !c.answers() {
			t.Errorf("tunnel %d of those that were alive ended when the server came back", i)
		}
	}
	s.relayOf(id, "allowed.example 200", "denied.example 403 deny_out")
	p.eventually("what the replica that lived decided meanwhile is reported", func() bool {
		return slices.ContainsFunc(s.egress(id).Decisions, func(d client.EgressDecision) bool { return d.Host == "denied.example" && d.Method == "CONNECT" })
	})

	// The end of a session ends its tunnels, wherever they are, and no other's.
	if r, err := s.api.StopSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("stop: %v", err)
	}
	for i, c := range alive {
		if err := c.ended(); err != nil {
			t.Errorf("tunnel %d of the session that ended: %v", i, err)
		}
	}
	p.eventually("it is let through no more", func() bool {
		return p.replicas[0].metric(t, "lap_egress_attempts") == "1" && p.replicas[1].metric(t, "lap_egress_attempts") == "1"
	})
	if c, status := open(t, secondRelay, "denied.example:7000"); status != http.StatusOK || !c.answers() {
		t.Errorf("the other session suffers: %d", status)
	}
	for _, r := range p.replicas {
		r.kill()
	}
	p.eventually("health says that there is no way out", func() bool { return s.egressCheck().Status == "failed" })
}

// checkTold looks at what a user is told of decisions.
func (p *proxied) checkTold(s *server, id string) {
	p.t.Helper()
	p.eventually("the report has all", func() bool {
		found := map[string]client.EgressDecision{}
		report := s.egress(id)
		for _, d := range report.Decisions {
			found[d.Host] = d
		}
		gateway, allowed, denied := found["gateway.example"], found["allowed.example"], found["denied.example"]
		addr, _ := allowed.Address.Get()
		return report.Enforcement == "enforced" && gateway.Rule == "platform" && gateway.Verdict == "allowed" && allowed.Rule == "allow_out" &&
			addr == servertest.PublicAddr && allowed.BytesReceived > 0 && !allowed.Open && denied.Rule == "deny_out" && denied.Verdict == "denied"
	})
	p.eventually("events tell of denials, each kind once", func() bool {
		page, err := s.api.StreamEventsWithResponse(p.t.Context(), id, &client.StreamEventsParams{Follow: new(bool), Limit: ptr(1000)})
		if err != nil || page.JSON200 == nil {
			p.t.Fatalf("events: %v", err)
		}
		kinds := map[string]int{}
		for _, e := range page.JSON200.Data {
			if strings.HasPrefix(e.Type, "egress.") {
				b, err := json.Marshal(e.Data)
				var d struct{ Host, Rule string }
				if err != nil || json.Unmarshal(b, &d) != nil {
					p.t.Fatal(err)
				}
				kinds[e.Type+" "+d.Host+" "+d.Rule]++
			}
		}
		for kind, n := range kinds {
			if n != 1 {
				p.t.Errorf("%d events of %s", n, kind)
			}
		}
		return kinds["egress.denied denied.example deny_out"] == 1 && kinds["egress.denied other.example allow_out"] == 1 &&
			kinds["egress.denied 169.254.169.254 blocked"] == 1 && kinds["egress.allowed allowed.example allow_out"] == 1
	})
	for _, r := range p.replicas {
		if r.metric(p.t, `lap_egress_connections_total{verdict="allowed"}`) == "0" || r.metric(p.t, "lap_egress_streams") != "1" {
			p.t.Error("a replica counts nothing")
		}
	}
	d, err := s.api.DiagnoseSessionWithResponse(p.t.Context(), id)
	if err != nil || d.JSON200 == nil || strings.Contains(string(d.Body), "egress_not_enforced") || !strings.Contains(string(d.Body), "egress_denied") {
		p.t.Errorf("diagnosis: %v %s", err, d.Body)
	}
	p.objects() // no secret is in them
	if _, text := plane.Objects(p.t, p.namespace); !strings.Contains(text, `"dnsPolicy":"None"`) || strings.Contains(text, `"dnsPolicy":"ClusterFirst"`) {
		p.t.Errorf("pods have DNS: %s", text)
	}
}

// checkStranger looks at a replica that has another secret.
func (p *proxied) checkStranger(r *replica) {
	p.t.Helper()
	if got := r.probe("readyz"); got != http.StatusServiceUnavailable || r.metric(p.t, "lap_egress_attempts") != "0" {
		p.t.Errorf("a replica with another secret is told what to let through: %d", got)
	}
	text, err := os.ReadFile(r.log)
	if err != nil || !strings.Contains(string(text), "the server has another secret") {
		p.t.Errorf("it does not say why: %v", err)
	}
}

func (s *server) egressCheck() client.ClusterCheck {
	s.t.Helper()
	r, err := s.api.GetClusterHealthWithResponse(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	health := r.JSON200
	if health == nil {
		health = r.JSON503
	}
	for _, c := range health.Checks {
		if c.Name == "egress" {
			return c
		}
	}
	s.t.Fatalf("health says nothing of egress: %s", r.Body)
	return client.ClusterCheck{}
}

func ptr[T any](v T) *T { return &v }
