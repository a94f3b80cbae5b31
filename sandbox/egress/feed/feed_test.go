package feed_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func TestReplicasLetThroughWhatIsOpenAndCloseWhatEnds(t *testing.T) {
	t.Parallel()
	s, up := startServer(t, "127.0.0.1:0", true), echo(t)
	p, k := compile(t, policy.Spec{DenyOut: []string{"denied.example"}}), key("s1", 1)
	s.Open(k, egress.Session{Policy: p}) // before there is a replica
	one, two := startReplica(t, up, secret, s.addr), startReplica(t, up, secret, s.addr)
	eventually(t, "both are connected", func() bool { return s.Replicas() == 2 && one.IsReady() && two.IsReady() })
	c1, b1 := one.tunnel(t, "a.example", credential(k, p, time.Hour))
	c2, b2 := two.tunnel(t, "b.example", credential(k, p, time.Hour))
	if one.status(t, "denied.example", credential(k, p, time.Hour)) != http.StatusForbidden {
		t.Error("what the policy denies is let through")
	}
	if !answers(c1, b1) || !answers(c2, b2) {
		t.Error("a tunnel does not answer")
	}
	s.Open(key("s2", 1), egress.Session{Policy: p}) // with a policy that is there
	one.tunnel(t, "s2.example", credential(key("s2", 1), p, time.Hour))
	eventually(t, "the decisions", func() bool {
		list := s.Recent(k)
		return strings.Join(hostsOf(list), " ") == "a.example b.example denied.example" && list[0].Open && list[0].Addr.IsValid()
	})

	eventually(t, "the bytes of what is open", func() bool {
		for _, r := range s.Recent(k) {
			if r.Host == "a.example" {
				return r.Open && r.Sent == 5 && r.Received == 5
			}
		}
		return false
	})

	// Another attempt with another policy takes the place of the first.
	other := compile(t, policy.Spec{DenyOut: []string{"b.example"}})
	s.Open(key("s1", 2), egress.Session{Policy: other})
	ends(t, "the first attempt's tunnel", b1)
	ends(t, "the first attempt's tunnel", b2)
	now := credential(key("s1", 2), other, time.Hour)
	_, b3 := two.tunnel(t, "denied.example", now)
	if two.status(t, "b.example", now) != http.StatusForbidden || two.status(t, "a.example", credential(k, p, time.Hour)) != http.StatusProxyAuthRequired {
		t.Error("the former attempt goes on")
	}
	s.Close(key("s1", 1)) // is late, and means nothing any more
	s.Close(key("s1", 2))
	ends(t, "the tunnel of a session that ended", b3)
	eventually(t, "the byte counts of what has ended", func() bool {
		for _, r := range s.Recent(k) {
			if r.Open || r.Host == "a.example" && (r.Sent != 5 || r.Received != 5) {
				return false
			}
		}
		return true
	})
	eventually(t, "the other replica lets the session that ended through no more", func() bool {
		return one.status(t, "late.example", now) == http.StatusProxyAuthRequired
	})
	eventually(t, "each decision is reported once", func() bool {
		got := s.hosts()
		return count(got, "a.example") == 1 && count(got, "b.example") == 2 && count(got, "denied.example") == 2
	})
}

func TestIndexesCloseWhenRequirementsAreInstalled(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	r := startReplica(t, echo(t), secret, s.addr)
	p, k := compile(t, policy.Spec{AllowOut: []string{"a.example"}, Indexes: []string{"index.example"}}), key("s1", 1)
	s.Open(k, egress.Session{Policy: p, Installing: true})
	c, b := r.tunnel(t, "index.example", credential(k, p, time.Hour))
	s.Installed(k)
	eventually(t, "the index is closed", func() bool { return r.status(t, "index.example", credential(k, p, time.Hour)) == http.StatusForbidden })
	if !answers(c, b) {
		t.Error("what is open was cut")
	}
}

func TestASandboxMustConnectFromItsOwnAddress(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	r := startReplica(t, echo(t), secret, s.addr)
	p := compile(t, policy.Spec{})
	s.Open(key("there", 1), egress.Session{Policy: p, Source: netip.MustParseAddr("127.0.0.9")})
	s.Open(key("here", 1), egress.Session{Policy: p, Source: netip.MustParseAddr("127.0.0.1")})
	r.tunnel(t, "a.example", credential(key("here", 1), p, time.Hour))
	eventually(t, "both are known", func() bool { _, n := r.Counts(); return n == 2 })
	if got := r.status(t, "a.example", credential(key("there", 1), p, time.Hour)); got != http.StatusProxyAuthRequired {
		t.Errorf("with the credential of another pod: %d", got)
	}
}

func TestWithoutAServerReplicasGoOnWithWhatTheyKnow(t *testing.T) {
	t.Parallel()
	s, p := startServer(t, "127.0.0.1:0", true), compile(t, policy.Spec{DenyOut: []string{"denied.example"}})
	r := startReplica(t, echo(t), secret, s.addr)
	goes, ended := key("goes-on", 1), key("ends", 1)
	s.Open(goes, egress.Session{Policy: p})
	s.Open(ended, egress.Session{Policy: p})
	c1, b1 := r.tunnel(t, "a.example", credential(goes, p, time.Hour))
	_, b2 := r.tunnel(t, "b.example", credential(ended, p, time.Hour))
	eventually(t, "decisions are there", func() bool { return len(s.Recent(goes)) == 1 && len(s.Recent(ended)) == 1 })

	s.stop()
	eventually(t, "the stream is lost", func() bool { n, _ := r.Counts(); return n == 0 })
	if !answers(c1, b1) || !r.IsReady() {
		t.Error("what is open was cut")
	}
	for what, c := range map[string]struct {
		credential string
		want       int
	}{
		"a new tunnel":          {credential(goes, p, time.Hour), http.StatusOK},
		"an expired credential": {credential(goes, p, -time.Minute), http.StatusProxyAuthRequired},
		"an unknown attempt":    {credential(key("unknown", 1), p, time.Hour), http.StatusProxyAuthRequired},
		"another policy":        {credential(goes, compile(t, policy.Spec{}), time.Hour), http.StatusProxyAuthRequired},
	} {
		if got := r.status(t, "away.example", c.credential); got != c.want {
			t.Errorf("%s: %d", what, got)
		}
	}
	if r.status(t, "denied.example", credential(goes, p, time.Hour)) != http.StatusForbidden {
		t.Error("what the policy denies is let through")
	}

	// Another one comes, which has opened nothing yet. One session has ended meanwhile, and nobody had said so.
	s = startServer(t, s.addr, true, ended)
	ends(t, "the tunnel of the session that ended", b2)
	if !answers(c1, b1) {
		t.Error("the tunnel of the other session was cut")
	}
	eventually(t, "decisions made meanwhile arrive", func() bool {
		got := s.hosts()
		return count(got, "away.example") == 1 && count(got, "denied.example") == 1
	})
	s.Open(goes, egress.Session{Policy: p})
	r.tunnel(t, "c.example", credential(goes, p, time.Hour))
	if !answers(c1, b1) {
		t.Error("it was cut when the new server opened it again")
	}
	eventually(t, "the new server knows of what was before", func() bool { return slices.Contains(hostsOf(s.Recent(goes)), "a.example") })
}

func TestOnlyTheLeaderMakesEventsAndItsSuccessorLosesNone(t *testing.T) {
	t.Parallel()
	leader, other := startServer(t, "127.0.0.1:0", true), startServer(t, "127.0.0.1:0", false)
	r := startReplica(t, echo(t), secret, leader.addr, other.addr)
	p, k := compile(t, policy.Spec{DenyOut: []string{"*.denied.example"}}), key("s1", 1)
	leader.Open(k, egress.Session{Policy: p})
	deny := func(n int) {
		t.Helper()
		host := fmt.Sprintf("n%d.denied.example", n)
		eventually(t, host, func() bool { return r.status(t, host, credential(k, p, time.Hour)) == http.StatusForbidden })
	}
	deny(1)
	eventually(t, "both know", func() bool { return len(leader.Recent(k)) == 1 && len(other.Recent(k)) == 1 })
	eventually(t, "the leader makes an event", func() bool { return len(leader.hosts()) == 1 })
	// The leader may have told of it when it dies; if it has, the replica knows.
	leader.stop()
	eventually(t, "one stream is lost", func() bool { n, _ := r.Counts(); return n == 1 })
	deny(2)
	eventually(t, "the other knows", func() bool { return len(other.Recent(k)) == 2 })
	if got := other.hosts(); len(got) != 0 {
		t.Errorf("a server that does not lead makes events of %v", got)
	}
	other.leads.Store(true)
	deny(3)
	eventually(t, "the successor makes the rest", func() bool {
		return count(other.hosts(), "n2.denied.example") == 1 && count(other.hosts(), "n3.denied.example") == 1
	})
	if got := other.hosts(); got[len(got)-2] != "n2.denied.example" || len(other.Recent(k)) != 3 {
		t.Errorf("it made %v of %d", got, len(other.Recent(k)))
	}
	// What it opens while another leads does not count, what it opens later does.
	other.leads.Store(false)
	other.Open(key("s2", 1), egress.Session{Policy: p})
	other.leads.Store(true)
	other.Open(key("s3", 1), egress.Session{Policy: p})
	r.tunnel(t, "a.example", credential(key("s3", 1), p, time.Hour))
	if got := r.status(t, "a.example", credential(key("s2", 1), p, time.Hour)); got != http.StatusProxyAuthRequired {
		t.Errorf("what it opened without leading: %d", got)
	}
	// It may end what it never opened.
	c, b := r.tunnel(t, "a.example", credential(k, p, time.Hour))
	defer c.Close()
	other.End(k.Session)
	ends(t, "the tunnel", b)
}

func TestAReplicaThatIsKilledLeavesNoConnectionOpenInTheReports(t *testing.T) {
	t.Parallel()
	s, up := startServer(t, "127.0.0.1:0", true), echo(t)
	one, two := startReplica(t, up, secret, s.addr), startReplica(t, up, secret, s.addr)
	p, k := compile(t, policy.Spec{}), key("s1", 1)
	s.Open(k, egress.Session{Policy: p})
	_, b := one.tunnel(t, "a.example", credential(k, p, time.Hour))
	eventually(t, "it is reported", func() bool { return len(s.Recent(k)) == 1 })
	one.stop()
	ends(t, "the killed replica's tunnel", b)
	c, b := two.tunnel(t, "b.example", credential(k, p, time.Hour))
	if !answers(c, b) {
		t.Error("the other replica does not answer")
	}
	s.Close(k)
	eventually(t, "nothing is open", func() bool {
		list := s.Recent(k)
		return len(list) == 2 && !list[0].Open && !list[1].Open
	})
}

func TestWhatASandboxChoosesDoesNotBreakTheStream(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	r := startReplica(t, echo(t), secret, s.addr)
	p, k := compile(t, policy.Spec{AllowOut: []string{"a.example"}}), key("s1", 1)
	s.Open(k, egress.Session{Policy: p})
	r.tunnel(t, "a.example", credential(k, p, time.Hour))
	long := strings.Repeat("x", 60<<10)
	c, _, status := r.request(t, long, "http://denied.example/", credential(k, p, time.Hour))
	c.Close()
	if status != http.StatusForbidden {
		t.Fatalf("got %d", status)
	}
	for range 600 { // more than a replica keeps
		if r.status(t, "denied.example", credential(k, p, time.Hour)) != http.StatusForbidden {
			t.Fatal("let through")
		}
	}
	eventually(t, "all are told of", func() bool { return count(s.hosts(), "denied.example") == 601 })
	if got := s.Recent(k); len(got) != 256 {
		t.Errorf("%d are kept", len(got))
	}
	if n, _ := r.Counts(); n != 1 || s.Lost() != 0 {
		t.Errorf("%d streams, %d lost", n, s.Lost())
	}
}

func TestDecisionsThatNoServerCouldHearAreCounted(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	r := startReplica(t, echo(t), secret, s.addr)
	p, k := compile(t, policy.Spec{AllowOut: []string{"a.example"}}), key("s1", 1)
	s.Open(k, egress.Session{Policy: p})
	r.tunnel(t, "a.example", credential(k, p, time.Hour))
	eventually(t, "it is told of", func() bool { return len(s.Recent(k)) == 1 })
	s.stop()
	eventually(t, "the stream is lost", func() bool { n, _ := r.Counts(); return n == 0 })
	for range 600 {
		r.status(t, "denied.example", credential(k, p, time.Hour))
	}
	s = startServer(t, s.addr, true)
	eventually(t, "what is left arrives", func() bool { return len(s.hosts()) == 512 })
	if got := s.Lost(); got < 87 || got > 90 {
		t.Errorf("%d are lost", got)
	}
}
