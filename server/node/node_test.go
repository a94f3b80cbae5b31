//go:build node

package node_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/sandbox/kube/nodetest"
	"github.com/litellm-agent-platform/lap/server/servertest"
)

func TestASessionLivesInAPodOfARealNode(t *testing.T) {
	networks := node.Networks(t)
	w := install(t, "life")
	node.Volumes(t, 2)
	platform := node.Networks(t) - networks
	steps := node.Watch(t, w.namespace)
	begun := time.Now()
	id := w.Open(client.AgentCreateHarnessIDOpencode)
	w.Await(id, client.SessionStatusReady)
	ready := time.Now()
	for _, s := range append(steps(), nodetest.Step{Name: "harness ready", At: ready}) {
		t.Logf("%-20s after %v", s.Name, s.At.Sub(begun).Round(time.Millisecond))
	}
	if said := w.Say(id, `RUN: echo "$AGENT_SECRET $SESSION_SECRET $FROM_OPERATOR"; echo kept > note`); !strings.Contains(said, "agent-canary session-canary operator-canary") {
		t.Errorf("the harness says %q", said)
	}
	said := w.Say(id, "RUN: id -u; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; touch /usr/local/x; ls /var/run/secrets; df /workspace | tail -1")
	for _, want := range []string{"1000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Read-only file system", "cannot access '/var/run/secrets'"} {
		if !strings.Contains(said, want) {
			t.Errorf("the sandbox does not say %q but %q", want, said)
		}
	}
	if names := w.objects(); !slices.Contains(names, "persistentvolumeclaim workspace-"+id) || !slices.Contains(names, "secret settings-"+id) {
		t.Errorf("there are %v", names)
	}
	w.LooksWell(id, w.namespace, canaries)
	pod := node.Pod(t, w.namespace, id)
	if len(node.Traces(t, string(pod.UID))) < 2 {
		t.Error("the node has nothing of the pod")
	}

	if r, err := w.API.StopSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("stop: %v", err)
	}
	servertest.Eventually(t, "the pod is gone from the node", func() bool {
		return len(w.objects()) == 2 && len(node.Traces(t, string(pod.UID))) == 0
	})
	if r, err := w.API.RestartSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("restart: %v", err)
	}
	w.Await(id, client.SessionStatusReady)
	if said := w.Say(id, "RUN: cat note; echo $SESSION_SECRET"); !strings.Contains(said, "kept\nsession-canary") {
		t.Errorf("after the restart it says %q", said)
	}
	pod = node.Pod(t, w.namespace, id)
	w.delete(id)
	servertest.Eventually(t, "nothing is left", func() bool {
		return len(w.objects()) == 0 && len(node.Traces(t, string(pod.UID))) == 0 && node.Networks(t) == networks+platform
	})
}

func TestATerminalOfARealPodEchoes(t *testing.T) {
	w := install(t, "tty")
	node.Volumes(t, 1)
	id := w.Open(client.AgentCreateHarnessIDClaudeCode)
	sess := w.Await(id, client.SessionStatusReady)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, w.url+sess.TtyURL.MustGet(), &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + sess.TtyToken.MustGet()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	screen := ""
	sees := func(text string) {
		t.Helper()
		for !strings.Contains(screen, text) {
			_, b, err := ws.Read(ctx)
			if err != nil {
				t.Fatalf("%v after %q", err, screen)
			}
			screen += string(b)
		}
	}
	sees("Claude")
	if err := ws.Write(ctx, websocket.MessageBinary, []byte("typed-here")); err != nil {
		t.Fatal(err)
	}
	sees("typed-here")
	w.delete(id)
	servertest.Eventually(t, "nothing is left", func() bool { return len(w.objects()) == 0 })
}

func TestEachFailureOfARealNodeIsTold(t *testing.T) {
	w := install(t, "fail")
	node.Volumes(t, 3)
	fails := func(t *testing.T, w *world, harness client.AgentCreateHarnessID, words ...string) {
		t.Helper()
		steps := node.Watch(t, w.namespace)
		begun := time.Now()
		id := w.Open(harness)
		var got client.Session
		servertest.Eventually(t, "the session has failed", func() bool {
			got = w.Get(id)
			return got.Status == client.SessionStatusFailed
		})
		reason := got.FailureReason.MustGet()
		took := time.Since(begun)
		t.Logf("after %v: %s", took.Round(time.Millisecond), reason)
		for _, s := range steps() {
			t.Logf("%-20s after %v", s.Name, s.At.Sub(begun).Round(time.Millisecond))
		}
		if took > 10*time.Second {
			t.Error("it took more than 10 s")
		}
		for _, word := range words {
			if !strings.Contains(reason, word) {
				t.Errorf("the reason is %q", reason)
			}
		}
		w.delete(id)
		servertest.Eventually(t, "nothing is left", func() bool { return len(w.objects()) == 0 })
	}
	t.Run("image is missing", func(t *testing.T) {
		fails(t, w, client.AgentCreateHarnessIDCodex, missingImage, "is not on node", "Never")
	})
	t.Run("harness exits", func(t *testing.T) {
		fails(t, w, client.AgentCreateHarnessIDClaudeAgentSdk, "3", "broken-harness")
	})
	t.Run("eviction", func(t *testing.T) {
		id := w.Open(client.AgentCreateHarnessIDOpencode)
		w.Await(id, client.SessionStatusReady)
		begun := time.Now()
		node.Evict(t, node.Pod(t, w.namespace, id))
		var got client.Session
		servertest.Eventually(t, "the session is dead", func() bool {
			got = w.Get(id)
			return got.Status == client.SessionStatusDead
		})
		reason := got.FailureReason.MustGet()
		t.Logf("after %v: %s", time.Since(begun).Round(time.Millisecond), reason)
		if !strings.Contains(reason, "evicted") {
			t.Errorf("the reason is %q", reason)
		}
	})
	t.Run("sandboxd cannot be installed", func(t *testing.T) {
		fails(t, outside(t, "init", "K8S_PLATFORM_IMAGE="+nodetest.PauseImage), client.AgentCreateHarnessIDOpencode, "install-sandboxd")
	})
	t.Run("memory", func(t *testing.T) {
		// With cgroup v1 the kernel ends the harness only, which sandboxd then tells.
		const little = `{spec: {containers: [{name: harness, resources: {limits: {memory: 128Mi}}}]}}`
		fails(t, outside(t, "memory", "SANDBOX_POD_TEMPLATE="+little), client.AgentCreateHarnessIDOpencode, "memory")
	})
}

func TestAConversationGoesOnInAPodWithAFreshWorkspace(t *testing.T) {
	w := outside(t, "fresh", "SANDBOX_VOLUME_SIZE=")
	id := w.Open(client.AgentCreateHarnessIDOpencode)
	before := w.Await(id, client.SessionStatusReady).HarnessSessionID.MustGet()
	w.Say(id, "RUN: echo marmalade | tee note")
	if r, err := w.API.StopSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("stop: %v", err)
	}
	servertest.Eventually(t, "the pod is gone", func() bool {
		return !slices.ContainsFunc(w.objects(), func(o string) bool { return strings.HasPrefix(o, "pod ") })
	})
	if r, err := w.API.RestartSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("restart: %v", err)
	}
	if after := w.Await(id, client.SessionStatusReady).HarnessSessionID.MustGet(); after != before {
		t.Errorf("the harness's conversation was %s and is %s", before, after)
	}
	if said := w.Say(id, "RUN: cat note || echo no note"); !strings.Contains(said, "no note") {
		t.Errorf("in a fresh workspace it says %q", said)
	}
	asked := w.model.Requests()
	if last := fmt.Sprint(asked[len(asked)-1].Messages); !strings.Contains(last, "echo marmalade") {
		t.Errorf("the model was sent %s", last)
	}
	w.delete(id)
	servertest.Eventually(t, "nothing is left", func() bool { return len(w.objects()) == 0 })
}

func TestASessionIsReachedThroughTheAPIServer(t *testing.T) {
	w := outside(t, "forward")
	id := w.Open(client.AgentCreateHarnessIDOpencode)
	w.Await(id, client.SessionStatusReady)
	if said := w.Say(id, "RUN: echo $SESSION_SECRET"); !strings.Contains(said, "session-canary") {
		t.Errorf("the harness says %q", said)
	}
	w.LooksWell(id, w.namespace, canaries)
	w.delete(id)
	servertest.Eventually(t, "nothing is left", func() bool { return len(w.objects()) == 0 })
}

func TestAProxyIsTheOnlyWayOutOfASandbox(t *testing.T) {
	w := install(t, "escape")
	node.Volumes(t, 2)
	id, neighbour := w.Open(client.AgentCreateHarnessIDOpencode), w.Open(client.AgentCreateHarnessIDOpencode)
	w.Await(id, client.SessionStatusReady)
	w.Await(neighbour, client.SessionStatusReady)
	node.Bare(t, "free")
	node.Start(t, "free", "server", opencodeImage, "python3", "-m", "http.server", "8080")
	_, server := node.Ready(t, "free", "run=server")
	args := []string{
		"api=tcp:" + nodetest.APIAddr + ":443", "kubelet=tcp:" + nodetest.NodeAddr + ":10250", "gateway=tcp:" + w.gateway,
		"database=tcp:" + w.database, "platform=tcp:" + w.ip + ":3000", "pod=tcp:" + server + ":8080",
		"sandbox=tcp:" + node.Pod(t, w.namespace, neighbour).Status.PodIP + ":7411", "icmp=icmp:" + nodetest.Public,
		"names=udp:" + nodetest.NamesAddr + ":53", "feed=tcp:" + w.ip + ":9465", "proxy=tcp:" + node.Service(t, "lap-escape", "release-lap-egress") + ":3128",
	}
	for _, a := range []struct{ name, addr string }{
		{"public", nodetest.Public + ":80"}, {"doh", nodetest.Public + ":443"}, {"dns", nodetest.Public + ":53"}, {"dns", nodetest.Public + ":853"},
		{"metadata", nodetest.Metadata + ":80"}, {"resolver", nodetest.Outside + ":53"},
	} {
		answer(t, a.addr)
		args = append(args, a.name+"=tcp:"+a.addr, a.name+"=udp:"+a.addr)
	}
	answerHere(t, "[::]:9999")
	args = append(args, "ipv6=tcp:"+nodetest.LinkLocal(t)+":9999")
	for _, addr := range nodetest.Private {
		answer(t, addr+":80")
		args = append(args, "private=tcp:"+addr+":80", "private=udp:"+addr+":80")
	}
	said := w.Say(id, "RUN: env -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY escape "+strings.Join(args, " "))
	if !strings.Contains(said, "<out=proxy>") {
		t.Errorf("out of a sandbox it finds %q", said)
	}
	// Through the proxy there is what the policy says, which the server is told.
	asked := []string{nodetest.Public + ":80", nodetest.Metadata + ":80", nodetest.Private[0] + ":80", nodetest.APIAddr + ":443", server + ":8080"}
	said = w.Say(id, "RUN: for a in "+strings.Join(asked, " ")+`; do curl -s -m 20 -o /dev/null -w '%{http_code} ' http://$a/; done`)
	if !strings.Contains(said, "502 403 403 403 403 ") { // what answers outside is no web server
		t.Errorf("through the proxy it gets %q", said)
	}
	servertest.Eventually(t, "the server knows the decisions", func() bool {
		r, err := w.API.GetSessionEgressWithResponse(t.Context(), id)
		if err != nil || r.JSON200 == nil {
			t.Fatalf("egress: %v", err)
		}
		if r.JSON200.Enforcement != "enforced" {
			t.Fatalf("the policy is %s", r.JSON200.Enforcement)
		}
		verdicts := map[string]string{}
		for _, d := range r.JSON200.Decisions {
			verdicts[fmt.Sprint(d.Host, ":", d.Port)] = d.Verdict
		}
		return verdicts[asked[0]] == "allowed" && verdicts[asked[1]] == "denied" && verdicts[asked[4]] == "denied" && verdicts[w.gateway] == "allowed"
	})
	// The same program finds every way where no policy is, but into a sandbox: nothing stands in them but policies.
	const all = "<out=api database dns doh gateway icmp ipv6 kubelet metadata names packet platform pod private public raw resolver>"
	if free := node.Run(t, "free", opencodeImage, append([]string{"escape"}, args...)...); !strings.Contains(free, all) {
		t.Errorf("out of a free pod it finds %q", free)
	}
}

func answerHere(t *testing.T, addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
}

// answer answers at an address outside: connections by taking them, datagrams with themselves.
func answer(t *testing.T, addr string) {
	l, p := nodetest.Listen(t, addr), nodetest.ListenPacket(t, addr)
	ended := make(chan struct{}, 2)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- struct{}{}
				return
			}
			conn.Close()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				ended <- struct{}{}
				return
			}
			_, _ = p.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() { l.Close(); p.Close(); <-ended; <-ended })
}
