package session_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// addressed is a runtime whose sandboxes connect from an address of their own.
type addressed struct {
	*fakeRuntime
	addr string
}

func (a addressed) Addresses(context.Context, sandbox.ID) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr(a.addr)}, nil
}

func (addressed) Check(context.Context) sandbox.Report { return sandbox.Report{} }

// replicated gives the rig's sandboxes, which connect from source, a way out in a replica, and returns where its proxy is, and
// where it looks for its server.
func (r *rig) replicated(source string) (proxy, server string) {
	r.t.Helper()
	n := network{echo(r.t)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.o.Runtime = addressed{r.rt, source}
	proxy = l.Addr().String()
	server = r.feed("127.0.0.1:0", proxy)
	replica := feed.NewReplica(feed.ReplicaOptions{
		Servers: []string{server}, Secret: "shared-secret", Logger: r.o.Logger, Proxy: egress.Options{Resolver: n, Dial: n.dial},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { replica.Run(ctx) })
	wg.Go(func() { _ = replica.Proxy().Serve(l) })
	r.t.Cleanup(func() { cancel(); replica.Stop(); wg.Wait() })
	return proxy, server
}

// feed starts what a server is to replicas, in the place of one before it, with a controller.
func (r *rig) feed(addr, proxy string) string {
	r.t.Helper()
	r.o.Egress = session.NewEgress(session.EgressOptions{
		Store: r.o.Store, Keyring: r.o.Keyring, Logger: r.o.Logger, Address: proxy,
		Replicas: &session.EgressReplicas{Secret: "shared-secret", CheckSource: true},
	})
	r.o.EgressEnforced = true
	streams, _ := r.o.Egress.Replicas()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	s := &http.Server{Handler: streams}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	stop, e := r.stop, r.o.Egress
	stop()
	r.service = session.NewService(r.o)
	r.t.Cleanup(r.service.Close)
	r.lead()
	controller := r.stop
	r.stop = func() { controller(); _ = s.Close(); <-served; e.Close() }
	r.t.Cleanup(r.stop)
	return l.Addr().String()
}

// credentialOf is what the sandbox of a session was given.
func (r *fakeRuntime) credentialOf(sessionID string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.boxes {
		if b.spec.SessionID == sessionID {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.bound.Egress.Credential
		}
	}
	return ""
}

func TestReplicasHoldPodsToWhatTheirAgentsMayReach(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy, _ := r.replicated("127.0.0.1")
		id := r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.DenyOut = []string{"*.example.net"} })})
		r.await(id, session.Ready)
		if got := r.rt.only().bound.Egress; got.Proxy != proxy || len(got.Direct)+len(got.Mirrors) > 0 {
			t.Errorf("the sandbox is told %s %v %v", got.Proxy, got.Direct, got.Mirrors)
		}
		c, b, status := r.connect(proxy, "gateway:80", r.credential())
		if status != http.StatusOK {
			t.Fatalf("the gateway: %d", status)
		}
		pings(t, c, b)
		if _, _, status := r.connect(proxy, "files.example.net:443", r.credential()); status != http.StatusForbidden {
			t.Errorf("what the agent denies: %d", status)
		}
		eventually(t, "the denial is an event", func() bool { return r.count(id, "egress.denied") == 1 })
		eventually(t, "both are reported", func() bool {
			got := r.egress(id)
			return got.Enforcement == session.EgressEnforced && len(got.Decisions) == 2 && got.Decisions[0].Open && !got.Decisions[1].Open
		})
		report, ok := r.service.CheckRuntime(t.Context())
		if last := report.Checks[len(report.Checks)-1]; !ok || last.Name != "egress" || last.Fault+last.Note != "" {
			t.Errorf("health says %+v", last)
		}
		if err := r.service.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadByte(); err == nil {
			t.Error("the tunnel goes on after the end of the session")
		}
		eventually(t, "nothing is open", func() bool { return !r.egress(id).Decisions[0].Open })
	})
}

func TestTheCredentialOfOnePodIsOfNoUseToAnother(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy, _ := r.replicated("127.0.0.9")
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		if _, _, status := r.connect(proxy, "a.example.com:443", r.credential()); status != http.StatusProxyAuthRequired {
			t.Errorf("from another address: %d", status)
		}
	})
}

func TestASessionThatEndsWhileNoServerIsThereLosesItsTunnelsWhenOneComes(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy, server := r.replicated("127.0.0.1")
		id, other := r.open(session.CreateParams{}), r.open(session.CreateParams{})
		r.await(id, session.Ready)
		r.await(other, session.Ready)
		var streams []func() error
		for _, one := range []string{id, other} {
			c, b, status := r.connect(proxy, "a.example.com:443", r.rt.credentialOf(one))
			if status != http.StatusOK {
				t.Fatalf("got %d", status)
			}
			pings(t, c, b)
			streams = append(streams, func() error {
				_, err := c.Write([]byte("x\n"))
				if err == nil {
					_, err = b.ReadString('\n')
				}
				return err
			})
		}
		r.stop()
		if streams[0]() != nil || streams[1]() != nil {
			t.Error("a tunnel ended with the server")
		}
		if err := r.service.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.feed(server, proxy)
		eventually(t, "the tunnel of the session that ended is closed", func() bool { return streams[0]() != nil })
		if err := streams[1](); err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}

func TestDiagnoseAndHealthSayThatNothingIsEnforced(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.stop()
		r.o.Runtime = addressed{r.rt, "127.0.0.1"}
		r.service = session.NewService(r.o)
		t.Cleanup(r.service.Close)
		r.lead()
		id := r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.DenyOut = []string{"*.example.net"} })})
		d, err := r.service.Diagnose(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, i := range d.Issues {
			if i.Code == "egress_not_enforced" {
				said = i.Message + i.Action
			}
		}
		if !strings.Contains(said, "no proxy is between") || !strings.Contains(said, "EGRESS_PROXY_ADDR") {
			t.Errorf("diagnose says %q", said)
		}
		report, _ := r.service.CheckRuntime(t.Context())
		if last := report.Checks[len(report.Checks)-1]; !strings.Contains(last.Note, "not enforced") || last.Fault != "" {
			t.Errorf("health says %+v", last)
		}
		if got := r.egress(id).Enforcement; got != session.EgressOff {
			t.Errorf("enforcement is %s", got)
		}
	})
}
