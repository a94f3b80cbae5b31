package nodetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
)

const startWithin = 2 * time.Minute // for each part of the node; it takes a second or two

// Node is a running cluster of one node. It lives as long as the process.
type Node struct {
	*kubetest.Plane

	dir string
	api kubernetes.Interface
}

func start(dir string) (*Node, error) {
	n := &Node{dir: dir}
	bin, err := programs()
	if err != nil {
		return n, err
	}
	n.Plane, err = kubetest.Launch(bin[0], func(s *envtest.APIServer) {
		s.Address, s.Port = APIAddr, "443"
		s.Configure().Append("kubelet-preferred-address-types", "InternalIP").Disable("disable-admission-plugins")
	})
	if err != nil {
		return n, err
	}
	if n.api, err = kubernetes.NewForConfig(n.Config); err != nil {
		return n, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := n.writeKubeconfig(kubeconfig); err != nil {
		return n, err
	}
	if err := n.startContainers(); err != nil {
		return n, err
	}
	if err := n.startCluster(bin, kubeconfig); err != nil {
		return n, err
	}
	if err := n.await("the node is ready", n.ready); err != nil {
		return n, err
	}
	if err := n.serveNames(); err != nil {
		return n, err
	}
	return n, n.startPolicies(bin[1], kubeconfig)
}

func (n *Node) writeKubeconfig(path string) error {
	u, err := n.NewAdmin("node")
	if err != nil {
		return err
	}
	return os.WriteFile(path, u, 0o600)
}

func (n *Node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *Node) write(name, text string) (path string, err error) {
	path = n.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// daemon starts a program that ends with the room.
func (n *Node) daemon(program string, args ...string) error {
	log, err := os.Create(n.path(filepath.Base(program) + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

func (n *Node) await(what string, is func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := is(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never: %s: %w", what, err)
		case <-tick.C:
		}
	}
}

const cniConfig = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + podRange + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}`

// containerdConfig takes a directory. A root without CAP_SYS_RESOURCE cannot lower oom scores.
const containerdConfig = `version = 2
root = "%[1]s/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + PauseImage + `"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
`

// startContainers starts containerd with the images.
func (n *Node) startContainers() error {
	if _, err := n.write("cni/10-pods.conflist", cniConfig); err != nil {
		return err
	}
	config, err := n.write("containerd.toml", fmt.Sprintf(containerdConfig, n.dir))
	if err != nil {
		return err
	}
	if err := n.daemon("containerd", "--config", config); err != nil {
		return err
	}
	ctr := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, "ctr", append([]string{"-a", "/run/containerd.sock", "-n", "k8s.io"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ctr: %w: %s", err, out)
		}
		return nil
	}
	if err := n.await("containerd answers", func(ctx context.Context) error { return ctr(ctx, "version") }); err != nil {
		return err
	}
	if err := ctr(context.Background(), "images", "import", n.path("images.tar")); err != nil {
		return err
	}
	return os.Remove(n.path("images.tar"))
}

// kubeletConfig takes the directory and the cgroup. It lets the node's disk be as full as it is.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: ` + NodeAddr + `
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
failCgroupV1: false
containerRuntimeEndpoint: unix:///run/containerd.sock
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
makeIPTablesUtilChains: false
oomScoreAdj: 0
evictionHard: {memory.available: 10Mi, nodefs.available: 0%%, imagefs.available: 0%%, nodefs.inodesFree: 0%%}
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
resolvConf: ""
clusterDNS: [` + NamesAddr + `]
clusterDomain: ` + clusterDomain + `
nodeStatusUpdateFrequency: 2s
podLogsDir: %[1]s/podlogs
volumePluginDir: %[1]s/plugins
`

// proxyConfig takes the kubeconfig. It leaves the limits of the machine's connection tracking alone.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
mode: iptables
hostnameOverride: ` + nodeName + `
clusterCIDR: ` + podRange + `
bindAddress: ` + NodeAddr + `
healthzBindAddress: ""
metricsBindAddress: 127.0.0.1
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// startCluster starts what makes the control plane and containerd a cluster of one node.
func (n *Node) startCluster(bin [3]string, kubeconfig string) error {
	config, err := n.write("kubelet.yaml", fmt.Sprintf(kubeletConfig, n.dir, filepath.Base(n.dir)))
	if err != nil {
		return err
	}
	ca, err := n.write("ca.crt", string(n.Config.CAData))
	if err != nil {
		return err
	}
	proxy, err := n.write("kube-proxy.yaml", fmt.Sprintf(proxyConfig, kubeconfig))
	if err != nil {
		return err
	}
	connect := []string{
		"--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false",
	}
	for _, c := range [][]string{
		{filepath.Join(bin[0], "kubelet"), "--config", config, "--kubeconfig", kubeconfig, "--hostname-override", nodeName, "--node-ip", NodeAddr,
			"--root-dir", n.path("kubelet"), "--cert-dir", n.path("kubelet-pki")},
		append([]string{filepath.Join(bin[0], "kube-controller-manager"), "--root-ca-file", ca, "--cert-dir", n.path("controllers-pki")}, connect...),
		append([]string{filepath.Join(bin[0], "kube-scheduler"), "--cert-dir", n.path("scheduler-pki")}, connect...),
		{filepath.Join(bin[2], "kube-proxy"), "--config", proxy},
	} {
		if err := n.daemon(c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// startPolicies starts what enforces network policies. It ends if there is no node yet, and lets everybody reach what it takes for
// addresses of services, so those must not be the API server's.
func (n *Node) startPolicies(dir, kubeconfig string) error {
	err := n.daemon(filepath.Join(dir, "kube-router"), "--kubeconfig", kubeconfig, "--hostname-override="+nodeName, "--run-router=false",
		"--run-firewall=true", "--run-service-proxy=false", "--health-port=0", "--metrics-port=0", "--service-cluster-ip-range=10.255.255.0/24")
	if err != nil {
		return err
	}
	return n.await("policies are enforced", func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, "iptables", "-w", "-S", "KUBE-ROUTER-FORWARD").CombinedOutput()
		if err != nil {
			return fmt.Errorf("iptables: %w: %s", err, out)
		}
		return nil
	})
}

func (n *Node) ready(ctx context.Context) error {
	node, err := n.api.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("its conditions are %s", strings.TrimSpace(fmt.Sprint(node.Status.Conditions)))
}

// PauseImage is what holds the namespaces of a pod.
const PauseImage = "docker.io/library/pause:test"
