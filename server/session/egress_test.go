package session_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// network is all that the proxy of a test can reach: every name but those of "gone" has one public address, those of "inside" a
// private one, and one upstream that sends back what it gets stands for all of them.
type network struct{ upstream string }

func (n network) Resolve(_ context.Context, name string, _ bool) (egress.Answer, error) {
	switch {
	case strings.HasPrefix(name, "gone"):
		return egress.Answer{}, errors.New("no such host")
	case strings.HasPrefix(name, "inside"):
		return egress.Answer{Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}}, nil
	}
	return egress.Answer{Addrs: []netip.Addr{netip.MustParseAddr("93.184.215.14")}}, nil
}

func (n network) dial(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", n.upstream)
}

// serve accepts until the test ends; addr is where.
func serve(t *testing.T, on func(net.Listener)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() { on(l) })
	return l.Addr().String()
}

func echo(t *testing.T) string {
	return serve(t, func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				_, _ = io.Copy(c, c)
			}()
		}
	})
}

// control gives the rig's sandboxes a way out and returns where its proxy is.
func (r *rig) control(change func(*session.EgressOptions)) string {
	r.t.Helper()
	r.stop()
	n := network{echo(r.t)}
	o := session.EgressOptions{Store: r.o.Store, Keyring: r.o.Keyring, Logger: r.o.Logger, Address: "unix:/egress.sock", Resolver: n, Dial: n.dial}
	if change != nil {
		change(&o)
	}
	r.o.Egress = session.NewEgress(o)
	addr := serve(r.t, func(l net.Listener) { _ = r.o.Egress.Serve(l) })
	r.t.Cleanup(r.o.Egress.Close)
	r.service = session.NewService(r.o)
	r.t.Cleanup(r.service.Close)
	r.lead()
	return addr
}

// credential is the last one that the session's only sandbox was given.
func (r *rig) credential() string {
	r.t.Helper()
	var c *sandboxd.SessionConfig
	b := r.rt.only()
	eventually(r.t, "a sandbox that is bound", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		c = b.bound
		return c != nil
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.renewed); n > 0 {
		return b.renewed[n-1]
	}
	return c.Egress.Credential
}

// connect asks the proxy for a tunnel and returns the status.
func (r *rig) connect(proxy, target, credential string) (net.Conn, *bufio.Reader, int) {
	r.t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Bearer %[2]s\r\n\r\n", target, credential); err != nil {
		r.t.Fatal(err)
	}
	b := bufio.NewReader(c)
	res, err := http.ReadResponse(b, &http.Request{Method: http.MethodConnect})
	if err != nil {
		r.t.Fatal(err)
	}
	return c, b, res.StatusCode
}

func pings(t *testing.T, c net.Conn, b *bufio.Reader) {
	t.Helper()
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		t.Error(err)
	}
	if line, err := b.ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("the tunnel answers %q, %v", line, err)
	}
}

func (r *rig) egress(id string) session.EgressReport {
	r.t.Helper()
	got, err := r.service.Egress(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func TestWhatASandboxMayReachIsDecidedByItsAgentAndTheOperator(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy := r.control(func(o *session.EgressOptions) {
			o.AllowCIDRs, o.DenyCIDRs, o.Indexes = []string{"10.1.0.0/16"}, []string{"192.0.2.0/24"}, []string{"index.example.com"}
		})
		agent := r.agent(func(a *store.Agent) {
			a.RepoURL, a.Requirements = ptr("https://git.example.com:8443/x.git"), ptr("--extra-index-url https://${C}.example.org/simple\nx\n")
			a.MCPServers = []string{"docs=sse+https://mcp-${A}.example.com/x#Key=${B}", "stdio:docs https://stdio.example.com"}
			a.AllowOut, a.DenyOut = []string{"*.allowed.example.com"}, []string{"bad.allowed.example.com", "git2.example.com"}
			a.EnvVars = map[string]string{"PIP_INDEX_URL": "https://own-index.example.com/simple"}
		})
		id := r.open(session.CreateParams{AgentID: agent})
		credential := r.credential()
		check := func(target string, status int, rule, verdict string) {
			t.Helper()
			c, _, got := r.connect(proxy, target, credential)
			c.Close()
			all := r.egress(id).Decisions
			last := all[len(all)-1]
			if got != status || last.Rule != rule || last.Verdict != verdict || last.Host+":"+fmt.Sprint(last.Port) != target {
				t.Errorf("%s: got %d, %s by %q, want %d, %s by %q", target, got, last.Verdict, last.Rule, status, verdict, rule)
			}
		}
		check("gateway:80", 200, "platform", "allowed")
		check("inside.example.net:443", 200, "allow_cidrs", "allowed")
		check("gateway:81", 403, "port", "denied")
		check("git.example.com:8443", 200, "agent_host", "allowed")
		check("mcp-operator.example.com:443", 200, "agent_host", "allowed")
		check("stdio.example.com:443", 403, "allow_out", "denied")
		check("a.allowed.example.com:443", 200, "allow_out", "allowed")
		check("bad.allowed.example.com:443", 403, "deny_out", "denied")
		check("other.example.com:443", 403, "allow_out", "denied")
		check("gone.allowed.example.com:443", 502, "", "failed")
		for _, index := range []string{"index.example.com:443", "operator.example.org:443", "own-index.example.com:443"} {
			check(index, 200, "package_index", "allowed")
		}
		b := r.rt.only()
		b.emit("phase", "", `{"phase":"waiting_harness","detail":""}`)
		b.emit("ready", "", `{"harness_session_id":"native-1"}`)
		r.await(id, session.Ready)
		eventually(t, "the index is closed", func() bool {
			c, _, status := r.connect(proxy, "index.example.com:443", credential)
			c.Close()
			return status == http.StatusForbidden
		})
		if got := r.egress(id); got.Enforcement != session.EgressAdvisory || got.Attempt != 1 {
			t.Errorf("report %+v", got)
		}
	})
}

func TestDenialsAreEventsAndRepeatedOnesAreCounted(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy := r.control(nil)
		id := r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.DenyOut = []string{"*.example.net"} })})
		r.await(id, session.Ready)
		for range 3 {
			r.connect(proxy, "files.example.net:443", r.credential())
		}
		c, b, _ := r.connect(proxy, "ok.example.com:443", r.credential())
		pings(t, c, b)
		c.Close()
		eventually(t, "both events", func() bool { return r.count(id, "egress.denied") > 0 && r.count(id, "egress.allowed") > 0 })
		if n := r.count(id, "egress.denied"); n != 1 {
			t.Errorf("%d events of one kind", n)
		}
		for _, e := range r.events(id) {
			var d struct {
				Host, Rule, Entry, Address string
				Port, Count                int
				Observed                   bool
			}
			if err := json.Unmarshal(e.Data, &d); err != nil {
				t.Fatal(err)
			}
			switch e.Type {
			case "egress.denied":
				if d.Host != "files.example.net" || d.Rule != "deny_out" || d.Entry != "*.example.net" || d.Port != 443 || d.Count != 1 || d.Observed {
					t.Errorf("denied: %s", e.Data)
				}
			case "egress.allowed":
				if d.Host != "ok.example.com" || d.Rule != "public" || d.Address != "93.184.215.14" {
					t.Errorf("allowed: %s", e.Data)
				}
			}
			if strings.Contains(string(e.Data), r.credential()) {
				t.Error("an event has the credential")
			}
		}
		d, err := r.service.Diagnose(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var codes []string
		for _, i := range d.Issues {
			codes = append(codes, i.Code)
		}
		if got := strings.Join(codes, " "); !strings.Contains(got, "egress_not_enforced") || !strings.Contains(got, "egress_denied") {
			t.Errorf("issues %q", got)
		}
	})
}

func TestAPolicyThatIsObservedLetsPassAndTells(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy := r.control(func(o *session.EgressOptions) { o.Observe = true })
		id := r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.AllowOut = []string{"a.example.com"} })})
		r.await(id, session.Ready)
		c, b, status := r.connect(proxy, "b.example.com:443", r.credential())
		if status != http.StatusOK {
			t.Fatalf("got %d", status)
		}
		pings(t, c, b)
		c.Close()
		if _, _, status := r.connect(proxy, "inside.example.com:443", r.credential()); status != http.StatusForbidden {
			t.Errorf("a private address: got %d", status)
		}
		eventually(t, "both denials", func() bool { return r.count(id, "egress.denied") == 2 })
		got := r.egress(id)
		if got.Enforcement != session.EgressObserved || !got.Decisions[0].Observed || got.Decisions[0].Sent != 5 || got.Decisions[0].Received != 5 || got.Decisions[1].Observed {
			t.Errorf("report %+v", got)
		}
	})
}

func TestTheWayOutGoesOnWithAnotherControllerAndEndsWithTheSession(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		proxy := r.control(func(o *session.EgressOptions) { o.OwnNetwork = true })
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		first := r.credential()
		c, b, status := r.connect(proxy, "a.example.com:443", first)
		if status != http.StatusOK {
			t.Fatalf("got %d", status)
		}
		r.stop()
		pings(t, c, b)
		r.lead()
		box := r.rt.only()
		eventually(t, "a new credential", func() bool {
			box.mu.Lock()
			defer box.mu.Unlock()
			return len(box.renewed) > 0
		})
		pings(t, c, b)
		if _, _, status := r.connect(proxy, "a.example.com:443", r.credential()); status != http.StatusOK {
			t.Errorf("with the new credential: got %d", status)
		}
		if err := r.service.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadByte(); err == nil {
			t.Error("the tunnel goes on after the end of the session")
		}
		if got := r.egress(id); len(got.Decisions) != 2 || got.Decisions[0].Open {
			t.Errorf("after the end the report is %+v", got)
		}
	})
}

func TestCredentialsAreRenewedBeforeTheyExpire(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.control(func(o *session.EgressOptions) { o.CredentialTTL = 30 * time.Millisecond })
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		box := r.rt.only()
		eventually(t, "three renewals", func() bool {
			box.mu.Lock()
			defer box.mu.Unlock()
			return len(box.renewed) >= 3 && box.proxy == "unix:/egress.sock"
		})
	})
}

func TestASandboxWithANetworkOfItsOwnIsToldWhatIsOnThisMachine(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.o.Gateway.BaseURL = "http://localhost:4000/v1"
		r.control(func(o *session.EgressOptions) { o.OwnNetwork = true })
		r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) {
			a.RepoURL, a.MCPServers = ptr("http://127.0.0.1:81/x"), []string{"http://[::1]:82/mcp", "https://mcp.example.com"}
		})})
		b := r.rt.only()
		eventually(t, "a sandbox that is bound", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.bound != nil })
		got := b.bound.Egress
		if fmt.Sprint(got.Mirrors, got.Direct) != "[localhost:4000 127.0.0.1:81 [::1]:82] []" || got.Proxy != "unix:/egress.sock" {
			t.Errorf("with a network of its own it is told %v", got.Mirrors)
		}
	})
}

func TestASandboxWithoutANetworkOfItsOwnReachesTheGatewayDirectly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.control(nil)
		r.open(session.CreateParams{})
		b := r.rt.only()
		eventually(t, "a sandbox that is bound", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.bound != nil })
		if got := b.bound.Egress; fmt.Sprint(got.Mirrors, got.Direct) != "[] [gateway]" {
			t.Errorf("it is told %v %v", got.Mirrors, got.Direct)
		}
	})
}
