package kube_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

func TestKubernetesRuntimeConforms(t *testing.T) {
	t.Parallel()
	sandboxtest.Conformance(t, func(t *testing.T) sandboxtest.Subject { return newSubject(t, nil, kubetest.KubeletOptions{}) })
}

func TestKubernetesRuntimeConformsWithoutVolumes(t *testing.T) {
	t.Parallel()
	sandboxtest.Conformance(t, func(t *testing.T) sandboxtest.Subject {
		s := newSubject(t, func(o *kube.Options) { o.VolumeSize = "" }, kubetest.KubeletOptions{})
		if s.kube().KeepsWorkspaces() {
			t.Error("it says that it keeps workspaces")
		}
		return s
	})
}

// options are those of a runtime in a namespace of its own.
func options(t testing.TB) kube.Options {
	t.Helper()
	return kube.Options{
		Config: plane.Config, Namespace: plane.Namespace(t), Image: "lap:test", Images: map[string]string{"opencode": "lap-opencode:test"},
		VolumeSize: "1Gi", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// subject is a runtime with a node.
type subject struct {
	*kubetest.Kubelet
	o kube.Options

	mu sync.Mutex // guards rt
	rt *kube.Runtime
}

var _ sandboxtest.Subject = (*subject)(nil)

func newSubject(t *testing.T, change func(*kube.Options), k kubetest.KubeletOptions) *subject {
	t.Helper()
	o := options(t)
	if change != nil {
		change(&o)
	}
	s := &subject{o: o, Kubelet: plane.StartKubelet(t, o.Namespace, k)}
	s.Reopen(t)
	t.Cleanup(s.Close)
	return s
}

func (s *subject) kube() *kube.Runtime {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rt
}

func (s *subject) Runtime() sandbox.Runtime { return s.kube() }

func (s *subject) Settings() sandbox.Settings { return s.kube().Settings() }

func (s *subject) Harness() string { return "opencode" }

func (s *subject) Close() { s.kube().Close() }

func (s *subject) Reopen(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rt != nil {
		s.rt.Close()
	}
	rt, err := kube.New(s.o)
	if err != nil {
		t.Fatal(err)
	}
	s.rt = rt
}

func (s *subject) Kill(t *testing.T, id sandbox.ID) { s.Kubelet.Kill(t, string(id)) }

func (s *subject) Spawn(t *testing.T, id sandbox.ID) { s.Kubelet.Spawn(t, string(id)) }

func (s *subject) Processes(_ *testing.T, id sandbox.ID) int { return s.Kubelet.Processes(string(id)) }

func (s *subject) WriteFile(t *testing.T, sessionID, name, text string) {
	t.Helper()
	if err := os.WriteFile(s.Workspace(sessionID, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *subject) ReadFile(sessionID, name string) (string, error) {
	b, err := os.ReadFile(filepath.Clean(s.Workspace(sessionID, name)))
	return string(b), err
}
