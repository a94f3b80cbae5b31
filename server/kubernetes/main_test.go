package kubernetes_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const masterKey = "kubernetes-master-key-0123456789"

// canaries are values that must be in no pod and in no log.
var canaries = append([]string{"operator-canary", "sk-gateway-canary", "egress-secret-canary", "Bearer v1.", masterKey}, servertest.Canaries...)

// plane is the control plane of all tests of this package.
var plane *kubetest.Plane

func TestMain(m *testing.M) {
	if err := servertest.EnterNetwork(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(kubetest.Main{M: storetest.Runner(m), Use: func(p *kubetest.Plane) { plane = p }},
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// world is a cluster, a database and a gateway, with as many servers as a test starts.
type world struct {
	t         *testing.T
	namespace string
	node      *kubetest.Kubelet
	gateway   *demo.Gateway
	env       []string
	lap       string
}

func newWorld(t *testing.T, database string, env ...string) *world {
	t.Helper()
	w := &world{t: t, namespace: plane.Namespace(t), gateway: demo.New("sk-gateway-canary"), lap: servertest.Build(t)}
	programs := map[string]string{}
	for name, harness := range map[string]string{"opencode": "opencode", "claude": "claude-code", "codex": "codex"} {
		var err error
		if programs[name], err = local.NPM(servertest.HarnessDir(t)).Install(t.Context(), harness, func(s string) { t.Log(s) }); err != nil {
			t.Fatal(err)
		}
	}
	w.node = plane.StartKubelet(t, w.namespace, kubetest.KubeletOptions{Programs: programs})
	gateway := httptest.NewServer(w.gateway)
	t.Cleanup(gateway.Close)
	w.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "METRICS_ADDR=off", "LOG_LEVEL=debug", "MASTER_KEY=" + masterKey,
		"ENCRYPTION_KEY=kubernetes-encryption-key-0123456789", "LITELLM_API_BASE=" + gateway.URL, "LITELLM_API_KEY=sk-gateway-canary",
		"CONTAINER_ENV_FROM_OPERATOR=operator-canary", "RUNTIME=kubernetes", "KUBECONFIG=" + plane.Kubeconfig(t),
		"K8S_NAMESPACE=" + w.namespace, "K8S_PLATFORM_IMAGE=lap:test", "K8S_HARNESS_IMAGE=lap-harness:test", "SANDBOX_VOLUME_SIZE=1Gi",
	}
	if database != "" {
		w.env = append(w.env, "DATABASE_URL="+database)
	}
	w.env = append(w.env, env...)
	return w
}

// server is one process of the real binary.
type server struct {
	*world
	dir, url string
	api      *client.ClientWithResponses
	cmd      *exec.Cmd
}

func (w *world) start() *server { return w.startAt(servertest.FreeAddr(w.t), w.t.TempDir()) }

// startAt is start for a server that may have been there before.
func (w *world) startAt(addr, dir string) *server {
	w.t.Helper()
	s := &server{world: w, dir: dir, url: "http://" + addr}
	s.api = apitest.Client(w.t, s.url, masterKey)
	log, err := os.CreateTemp(s.dir, "server.log-*")
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(w.lap, "serve")
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = append(w.env, "DATA_DIR="+s.dir, "LISTEN_ADDR="+addr), log, log
	if err := s.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		s.kill()
		text, err := os.ReadFile(log.Name())
		if err != nil {
			w.t.Error(err)
		}
		for _, canary := range canaries {
			if strings.Contains(string(text), canary) {
				w.t.Errorf("%s is in the log", canary)
			}
		}
		if w.t.Failed() {
			w.t.Logf("the end of the server's log:\n%s", text[max(0, len(text)-8000):])
		}
	})
	w.eventually("the server is ready", func() bool { return s.readiness().Status == "ready" })
	return s
}

func (s *server) readiness() (r client.Readiness) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return r
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&r)
	return r
}

func (s *server) leads() bool { return s.readiness().Controller == "leading" }

// kill ends the server at once. It is idempotent.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(unix.SIGKILL)
		_ = s.cmd.Wait()
		s.cmd = nil
	}
	http.DefaultClient.CloseIdleConnections()
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	servertest.Eventually(w.t, what, ok)
}

func (s *server) open(harness client.AgentCreateHarnessID) string {
	s.t.Helper()
	return s.sessions().Open(harness)
}

func (s *server) opened(harness client.AgentCreateHarnessID, with client.SessionCreate) string {
	s.t.Helper()
	return s.sessions().OpenWith(harness, with)
}

func (s *server) sessions() servertest.Sessions { return servertest.Sessions{T: s.t, API: s.api} }

func (s *server) session(id string) client.Session { s.t.Helper(); return s.sessions().Get(id) }

func (s *server) await(id string, status client.SessionStatus) client.Session {
	s.t.Helper()
	return s.sessions().Await(id, status)
}

func (s *server) say(id, text string) string { s.t.Helper(); return s.sessions().Say(id, text) }

// asked counts how often the model was asked about a text.
func (w *world) asked(text string) (n int) {
	for _, r := range w.gateway.Requests() {
		if m := r.Messages; len(m) > 0 && m[len(m)-1].Role == "user" && strings.Contains(m[len(m)-1].Text, text) {
			n++
		}
	}
	return n
}

func (w *world) objects() []string {
	w.t.Helper()
	names, text := plane.Objects(w.t, w.namespace)
	for _, canary := range canaries {
		if strings.Contains(text, canary) {
			w.t.Errorf("%s is in a pod or a volume claim", canary)
		}
	}
	return names
}
