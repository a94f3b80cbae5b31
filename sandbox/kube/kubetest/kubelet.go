package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// KubeletOptions say what is special about a node. All may be zero.
type KubeletOptions struct {
	// Leave reports whether a pod is left alone: the test plays scheduler and kubelet for it.
	Leave func(*corev1.Pod) bool
	// Programs are the paths of harnesses on this machine, by their names in images.
	Programs map[string]string
}

// Kubelet is scheduler, node and volume controller of one namespace. Its goroutines are one per pod, one for volumes, and those of
// two watches; the end of the test stops all of them and every process they started.
type Kubelet struct {
	o         KubeletOptions
	namespace string
	node      string
	dir       string
	sandboxd  string
	api       kubernetes.Interface
	server    *httptest.Server
	log       func(format string, args ...any)

	ctx    context.Context
	wg     sync.WaitGroup
	claims chan struct{} // capacity 1: look at the claims again

	mu   sync.Mutex // guards pods
	pods map[types.UID]*podWorker
}

// StartKubelet runs pods of a namespace until the end of the test.
func (p *Plane) StartKubelet(t testing.TB, namespace string, o KubeletOptions) *Kubelet {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := &Kubelet{
		o: o, namespace: namespace, node: "node-" + namespace, dir: t.TempDir(), sandboxd: p.Sandboxd, api: p.Clients(t),
		log: t.Logf, ctx: ctx, claims: make(chan struct{}, 1), pods: map[types.UID]*podWorker{},
	}
	k.server = httptest.NewTLSServer(k.handler())
	t.Cleanup(func() {
		cancel()
		k.wg.Wait()
		k.server.CloseClientConnections()
		k.server.Close()
	})
	if err := k.register(); err != nil {
		t.Fatal(err)
	}
	k.follow("pods", &corev1.Pod{}, func(obj any, gone bool) { k.seePod(obj, gone) })
	k.follow("persistentvolumeclaims", &corev1.PersistentVolumeClaim{}, func(any, bool) { k.lookAtClaims() })
	k.wg.Go(k.keepClaims)
	return k
}

// register makes the node through which the API server reaches logs and ports.
func (k *Kubelet) register() error {
	addr, err := netip.ParseAddrPort(k.server.Listener.Addr().String())
	if err != nil {
		return err
	}
	node, err := k.api.CoreV1().Nodes().Create(k.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.node}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.Addr().String()}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(addr.Port())
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	_, err = k.api.CoreV1().Nodes().UpdateStatus(k.ctx, node, metav1.UpdateOptions{})
	return err
}

func (k *Kubelet) follow(resource string, kind runtime.Object, see func(obj any, gone bool)) {
	informer := cache.NewSharedInformer(
		cache.NewListWatchFromClient(k.api.CoreV1().RESTClient(), resource, k.namespace, fields.Everything()), kind, 0)
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { see(obj, false) }, UpdateFunc: func(_, obj any) { see(obj, false) },
		DeleteFunc: func(obj any) { see(obj, true) },
	})
	if err != nil {
		panic(err) // the informer is not stopped yet
	}
	k.wg.Go(func() { informer.RunWithContext(k.ctx) })
}

func (k *Kubelet) seePod(obj any, gone bool) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok || k.o.Leave != nil && k.o.Leave(pod) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.pods[pod.UID]
	if w == nil {
		if gone || k.ctx.Err() != nil {
			return
		}
		w = newPodWorker(k, pod)
		k.pods[pod.UID] = w
		k.wg.Go(w.run)
	}
	if pod.DeletionTimestamp != nil || gone {
		w.end()
	}
	if gone {
		k.lookAtClaims()
	}
}

func (k *Kubelet) lookAtClaims() {
	select {
	case k.claims <- struct{}{}:
	default:
	}
}

// keepClaims lets claims go that are deleted and that no pod uses, with their files.
func (k *Kubelet) keepClaims() {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-again.C:
		case <-k.claims:
		}
		if err := k.releaseClaims(); err != nil && k.ctx.Err() == nil {
			k.log("kubelet: claims: %v", err)
		}
	}
}

func (k *Kubelet) releaseClaims() error {
	claims := k.api.CoreV1().PersistentVolumeClaims(k.namespace)
	all, err := claims.List(k.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	pods, err := k.api.CoreV1().Pods(k.namespace).List(k.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for i := range pods.Items {
		used[claimOf(&pods.Items[i])] = true
	}
	for i := range all.Items {
		c := &all.Items[i]
		if c.DeletionTimestamp == nil || used[c.Name] {
			continue
		}
		c.Finalizers = nil
		_, err = claims.Update(k.ctx, c, metav1.UpdateOptions{})
		err = errors.Join(err, os.RemoveAll(k.volume(c.Name)))
	}
	return err
}

func claimOf(pod *corev1.Pod) string {
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			return v.PersistentVolumeClaim.ClaimName
		}
	}
	return ""
}

func (k *Kubelet) volume(claim string) string { return filepath.Join(k.dir, "volumes", claim) }

// Workspace is the path of a file in a session's workspace.
func (k *Kubelet) Workspace(sessionID, file string) string {
	return filepath.Join(k.volume("workspace-"+sessionID), "workspace", file)
}

// worker finds the newest pod of a name.
func (k *Kubelet) worker(name string) *podWorker {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.pods {
		if w.pod.Name == name {
			return w
		}
	}
	return nil
}

// Kill ends the first process of a pod with SIGKILL.
func (k *Kubelet) Kill(t *testing.T, name string) {
	t.Helper()
	if w := k.worker(name); w == nil || w.kill() != nil {
		t.Fatalf("pod %s has no process to kill", name)
	}
}

// Spawn starts a process in a pod that has nothing to do with its first one.
func (k *Kubelet) Spawn(t *testing.T, name string) {
	t.Helper()
	w := k.worker(name)
	if w == nil {
		t.Fatalf("pod %s does not run", name)
	}
	if err := w.spawn("sleep", "600"); err != nil {
		t.Fatal(err)
	}
}

// Processes counts the processes of a pod.
func (k *Kubelet) Processes(name string) int { return len(processes(name)) }

// address finds an address of this machine that nobody uses with a port.
func address(port int32) (string, error) {
	for range 100 {
		ip := netip.AddrFrom4([4]byte{127, random(1, 254), random(0, 255), random(1, 254)}).String()
		l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(int(port))))
		if err != nil {
			continue
		}
		return ip, l.Close()
	}
	return "", errors.New("no free address")
}
