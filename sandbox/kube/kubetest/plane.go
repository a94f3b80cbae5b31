// Package kubetest is a Kubernetes for tests: a real kube-apiserver and etcd, built from the pins in sandbox/kube/controlplane,
// and a stand-in for scheduler and kubelet that runs a real sandboxd per pod and tells of it by writing to the API server. A
// "pod" here is a few processes of this machine with an address of their own in 127.0.0.0/8; it shows what the platform does, not
// what isolation does. One Plane serves a whole test binary, with a namespace and a Kubelet for each test.
package kubetest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Plane is a running control plane.
type Plane struct {
	Config   *rest.Config // of an administrator
	Sandboxd string       // path of the lean binary

	env   *envtest.Environment
	dir   string
	users sync.Mutex // held while one is added
}

// Start builds what is missing, which takes minutes on a machine that never did, and starts it.
func Start() (*Plane, error) {
	assets, err := Programs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lap-kubetest-")
	if err != nil {
		return nil, err
	}
	sandboxd := filepath.Join(dir, "sandboxd")
	if err := goBuild(moduleDir(), sandboxd, "./sandbox/sandboxd"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p, err := Launch(assets, func(s *envtest.APIServer) {
		s.Configure().Append("kubelet-preferred-address-types", "InternalIP")
		if addr := outside(); addr != "" {
			s.Configure().Set("advertise-address", addr)
		}
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p.Sandboxd, p.dir = sandboxd, dir
	return p, nil
}

// Programs builds etcd, kube-apiserver and further programs of sandbox/kube/controlplane that are missing, and returns their directory.
func Programs(more ...string) (dir string, err error) {
	programs := map[string]string{"etcd": "./etcd"}
	for _, name := range append(more, "kube-apiserver") {
		programs[name] = "k8s.io/kubernetes/cmd/" + name
	}
	return Built(filepath.Join(moduleDir(), "sandbox", "kube", "controlplane"), programs)
}

// Launch starts a control plane of built programs, without a sandboxd.
func Launch(assets string, configure func(*envtest.APIServer)) (*Plane, error) {
	p := &Plane{env: &envtest.Environment{
		BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute,
	}}
	configure(p.env.ControlPlane.GetAPIServer())
	var err error
	if p.Config, err = p.env.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the control plane: %w", err), p.Stop())
	}
	p.Config.QPS = -1
	return p, nil
}

// outside is an address of this machine beside loopback's, which the API server wants to tell others though it listens on loopback.
// It finds one itself only where a route leads out.
func outside() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return p.Addr().String()
		}
	}
	return ""
}

// Stop ends the control plane.
func (p *Plane) Stop() error {
	err := p.env.Stop()
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// User adds a user without any rights and returns how it connects.
func (p *Plane) User(t *testing.T, name string) *rest.Config {
	t.Helper()
	u, err := p.addUser(envtest.User{Name: name, Groups: []string{"lap"}}, &rest.Config{QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return u.Config()
}

// addUser lets one in at a time: envtest counts certificates without a lock.
func (p *Plane) addUser(u envtest.User, c *rest.Config) (*envtest.AuthenticatedUser, error) {
	p.users.Lock()
	defer p.users.Unlock()
	return p.env.AddUser(u, c)
}

// Kubeconfig writes a file that connects as an administrator.
func (p *Plane) Kubeconfig(t *testing.T) string {
	t.Helper()
	text, err := p.NewAdmin("admin-" + uuid.NewString())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// NewAdmin adds an administrator and returns a kubeconfig of theirs.
func (p *Plane) NewAdmin(name string) ([]byte, error) {
	u, err := p.addUser(envtest.User{Name: name, Groups: []string{"system:masters"}}, &rest.Config{})
	if err != nil {
		return nil, err
	}
	return u.KubeConfig()
}

// Namespace makes a namespace in which only pods of the Pod Security level "restricted" are admitted.
func (p *Plane) Namespace(t testing.TB) string {
	t.Helper()
	ns := "test-" + uuid.NewString()[:13]
	clients := p.Clients(t)
	if _, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: ns, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns
}

// Clients are typed clients of an administrator.
func (p *Plane) Clients(t testing.TB) kubernetes.Interface {
	t.Helper()
	clients, err := kubernetes.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// Main is the Run of a testing.M with a control plane around it, for goleak.VerifyTestMain.
type Main struct {
	M   interface{ Run() int }
	Use func(*Plane)
}

// Run starts the control plane, runs the tests and stops it.
func (m Main) Run() int {
	p, err := Start()
	if err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		return 1
	}
	m.Use(p)
	code := m.M.Run()
	if err := p.Stop(); err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		return 1
	}
	return code
}
