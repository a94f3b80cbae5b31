//go:build node

package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/kube/nodetest"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const (
	masterKey    = "node-master-key-0123456789"
	egressSecret = "node-egress-secret-0123456789"

	images        = "docker.io/library/"
	platformImage = images + "lap:test"
	opencodeImage = images + "lap-opencode:test"
	claudeImage   = images + "lap-claude:test"
	brokenImage   = images + "lap-broken:test"
	missingImage  = images + "lap-missing:test"
)

// canaries are values that must be in no pod and in no log.
var canaries = append([]string{"operator-canary", "sk-gateway-canary", masterKey, egressSecret}, servertest.Canaries...)

var node *nodetest.Node

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main{M: storetest.Runner(m), Images: makeImages, Use: func(n *nodetest.Node) { node = n }}.Run())
}

// makeImages makes what the Dockerfiles of sandbox/images make, but for Node.js, with a Debian of their packages below the harnesses.
func makeImages(dir string) ([]nodetest.Image, error) {
	const module = "github.com/litellm-agent-platform/lap/"
	programs := map[string]string{
		"lap": "server", "sandboxd": "sandbox/sandboxd", "escape": "sandbox/sandboxtest/escape", "pause": "sandbox/kube/nodetest/pause",
	}
	for name, pkg := range programs {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Join(dir, name), module+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build %s: %w: %s", pkg, err, out)
		}
		programs[name] = filepath.Join(dir, name)
	}
	debian := filepath.Join(dir, "debian.tar")
	if err := nodetest.Debian(debian, "../../sandbox/images/opencode/Dockerfile"); err != nil {
		return nil, err
	}
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho broken-harness >&2\nexit 3\n"), 0o600); err != nil {
		return nil, err
	}
	harness := func(image, name, path string) nodetest.Image {
		return nodetest.Image{
			Name: image, Base: debian, User: "1000:1000", Dirs: []string{"workspace", "data", "state", "lap"},
			Files: map[string]string{"/usr/local/bin/" + name: path, "/usr/local/bin/escape": programs["escape"]},
		}
	}
	list := []nodetest.Image{
		{Name: nodetest.PauseImage, Files: map[string]string{"/pause": programs["pause"]}, Entry: []string{"/pause"}, User: "65535:65535"},
		{
			Name: platformImage, User: "10001:10001", Entry: []string{"/usr/local/bin/lap"},
			Files: map[string]string{"/usr/local/bin/lap": programs["lap"], "/usr/local/bin/sandboxd": programs["sandboxd"]},
		},
		harness(brokenImage, "claude", broken),
	}
	cache, err := servertest.Harnesses()
	if err != nil {
		return nil, err
	}
	for _, h := range []struct{ image, program, id string }{{opencodeImage, "opencode", "opencode"}, {claudeImage, "claude", "claude-code"}} {
		path, err := local.NPM(cache).Install(context.Background(), h.id, func(string) {})
		if err != nil {
			return nil, err
		}
		list = append(list, harness(h.image, h.program, path))
	}
	return list, nil
}

// world is a server of its own, in a pod or outside, with a gateway beyond the node.
type world struct {
	servertest.Sessions

	namespace string // of its sandboxes
	gateway   string // address
	model     *demo.Gateway
	database  string // address, of a server in a pod
	ip        string // of its pod
	url       string
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	w := &world{namespace: "boxes-" + name}
	w.T = t
	l := nodetest.Listen(t, nodetest.Outside+":0")
	w.gateway = l.Addr().String()
	w.model = demo.New("sk-gateway-canary")
	s := &http.Server{Handler: w.model}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-served })
	return w
}

// install starts the server as users do: with the chart, in a pod.
func install(t *testing.T, name string) *world {
	t.Helper()
	w := newWorld(t, name)
	dsn, err := url.Parse(storetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	l := nodetest.Listen(t, nodetest.Outside+":0")
	w.database = l.Addr().String()
	relay(t, l, filepath.Join(dsn.Query().Get("host"), ".s.PGSQL.5432"))
	values := fmt.Sprintf(`
secretName: lap
replicas: 1
image: {repository: docker.io/library/lap, tag: test, pullPolicy: Never}
gateway: {url: 'http://%s'}
env: {LOG_LEVEL: debug, CONTAINER_ENV_FROM_OPERATOR: operator-canary}
sandboxes:
  namespace: %s
  pullPolicy: Never
  volumeSize: 1Gi
  images: {opencode: '%s', claudeCode: '%s', claudeSDK: '%s', codex: '%s'}
`, w.gateway, w.namespace, opencodeImage, claudeImage, brokenImage, missingImage)
	node.Install(t, "lap-"+name, values, map[string]string{
		"DATABASE_URL": "postgres://lap@" + w.database + dsn.Path + "?sslmode=disable", "MASTER_KEY": masterKey,
		"ENCRYPTION_KEY": "node-encryption-key-0123456789", "EGRESS_SECRET": egressSecret, "LITELLM_API_KEY": "sk-gateway-canary",
	})
	begun := time.Now()
	var pod string
	pod, w.ip = node.Ready(t, "lap-"+name, "app.kubernetes.io/name=lap")
	t.Logf("the server is ready %v after its installation", time.Since(begun).Round(time.Millisecond))
	w.url = "http://" + w.ip + ":3000"
	w.API = apitest.Client(t, w.url, masterKey)
	t.Cleanup(func() {
		log := node.PodLog(t, "lap-"+name, pod)
		w.checkLog(log)
	})
	return w
}

// outside starts the server as a process of the node's machine, which reaches sandboxes through the API server.
func outside(t *testing.T, name string, env ...string) *world {
	t.Helper()
	w := newWorld(t, name)
	node.Sandboxes(t, w.namespace)
	addr, dir := servertest.FreeAddr(t), t.TempDir()
	w.url = "http://" + addr
	w.API = apitest.Client(t, w.url, masterKey)
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(node.File("lap"), "serve")
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "METRICS_ADDR=off", "LOG_LEVEL=debug", "MASTER_KEY=" + masterKey, "DATA_DIR=" + dir,
		"LISTEN_ADDR=" + addr, "LITELLM_API_BASE=http://" + w.gateway, "LITELLM_API_KEY=sk-gateway-canary", "RUNTIME=kubernetes",
		"KUBECONFIG=" + node.File("kubeconfig"), "K8S_NAMESPACE=" + w.namespace, "K8S_PLATFORM_IMAGE=" + platformImage,
		"K8S_HARNESS_IMAGE=" + opencodeImage, "K8S_IMAGE_PULL_POLICY=Never", "CONTAINER_ENV_FROM_OPERATOR=operator-canary",
	}, env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Error(err)
		}
		w.checkLog(string(text))
	})
	servertest.Eventually(t, "the server is ready", func() bool {
		res, err := http.Get(w.url + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return w
}

func (w *world) checkLog(log string) {
	w.T.Helper()
	if !strings.Contains(log, "serving") {
		w.T.Error("the log was not read")
	}
	for _, canary := range canaries {
		if strings.Contains(log, canary) {
			w.T.Errorf("%s is in the log", canary)
		}
	}
	if w.T.Failed() {
		w.T.Logf("the end of the server's log:\n%s", log[max(0, len(log)-8000):])
	}
}

// objects names what there is of sandboxes, and looks for canaries in all but the secrets.
func (w *world) objects() []string {
	w.T.Helper()
	names, text := node.Objects(w.T, w.namespace)
	for _, canary := range canaries {
		if strings.Contains(text, canary) {
			w.T.Errorf("%s is in a pod or a volume claim", canary)
		}
	}
	return names
}

func (w *world) delete(id string) {
	w.T.Helper()
	if r, err := w.API.DeleteSessionWithResponse(w.T.Context(), id); err != nil || r.StatusCode() != http.StatusNoContent {
		w.T.Fatalf("delete: %v", err)
	}
}

// relay connects those who connect with a Unix socket.
func relay(t *testing.T, l net.Listener, socket string) {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", socket)
			if err != nil {
				in.Close()
				continue
			}
			end := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
			wg.Go(func() {
				done := make(chan error, 1)
				go func() {
					_, err := io.Copy(out, in)
					done <- errors.Join(err, out.Close())
				}()
				_, _ = io.Copy(in, out)
				in.Close()
				<-done
				end()
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
}
