package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
)

func (n *Node) eventually(t testing.TB, what string, is func(context.Context) error) {
	t.Helper()
	if err := n.await(what, is); err != nil {
		t.Fatal(err)
	}
}

// Bare makes a namespace in which anything goes, without policies.
func (n *Node) Bare(t *testing.T, name string) {
	t.Helper()
	n.Apply(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// Install installs the chart with values into a new namespace, with a secret that it needs, as Helm would.
func (n *Node) Install(t *testing.T, namespace, values string, secret map[string]string) {
	t.Helper()
	objects, err := kubetest.Render(t, namespace, values)
	if err != nil {
		t.Fatal(err)
	}
	n.Bare(t, namespace)
	n.Apply(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lap"}, StringData: secret})
	for _, kind := range []string{"Namespace", ""} { // the rest is in it
		for _, o := range objects {
			if (o.GetKind() == "Namespace") == (kind != "") {
				n.Apply(t, o)
			}
		}
	}
}

// Ready waits for a pod with labels and returns its name and address.
func (n *Node) Ready(t testing.TB, namespace, labels string) (name, ip string) {
	t.Helper()
	n.eventually(t, "a pod of "+labels+" is ready", func(ctx context.Context) error {
		list, err := n.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
		if err != nil {
			return err
		}
		for i := range list.Items {
			for _, c := range list.Items[i].Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					name, ip = list.Items[i].Name, list.Items[i].Status.PodIP
					return nil
				}
			}
		}
		text, _ := json.Marshal(list)
		return fmt.Errorf("the pods are %s", text)
	})
	return name, ip
}

// Run runs a program in a pod that no policy and no standard restricts, and returns what it says.
func (n *Node) Run(t testing.TB, namespace, image string, command ...string) string {
	t.Helper()
	name := n.Start(t, namespace, "run", image, command...)
	pods := n.api.CoreV1().Pods(namespace)
	n.eventually(t, "pod run ended", func(ctx context.Context) error {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return nil
	})
	return n.PodLog(t, namespace, name)
}

// Start starts a program in such a pod.
func (n *Node) Start(t testing.TB, namespace, name, image string, command ...string) string {
	t.Helper()
	_, err := n.api.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"run": name}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullNever, Command: command,
				SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64)},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// PodLog is what a pod said.
func (n *Node) PodLog(t testing.TB, namespace, name string) string {
	t.Helper()
	log, err := n.api.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).Stream(context.Background()) // after the test's end, too
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Pod is a sandbox's pod.
func (n *Node) Pod(t testing.TB, namespace, session string) *corev1.Pod {
	t.Helper()
	list, err := n.api.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "litellm-agent-platform/session=" + session})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("there are %d pods: %v", len(list.Items), err)
	}
	return &list.Items[0]
}

// Evict asks the API for the eviction of a pod, as draining a node does.
func (n *Node) Evict(t testing.TB, pod *corev1.Pod) {
	t.Helper()
	err := n.api.CoreV1().Pods(pod.Namespace).EvictV1(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Volumes makes persistent volumes on the node's disk, which claims without a class find.
func (n *Node) Volumes(t testing.TB, count int) {
	t.Helper()
	for range count {
		name := "volume-" + uuid.NewString()
		path := n.path(name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := n.api.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{
				Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
				AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{nodeName},
					}},
				}}}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.eventually(t, "a volume may be claimed", func(ctx context.Context) error { // else a claim waits for the next look in 15 s
			v, err := n.api.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
			if err == nil && v.Status.Phase != corev1.VolumeAvailable && v.Status.Phase != corev1.VolumeBound {
				err = fmt.Errorf("it is %s", v.Status.Phase)
			}
			return err
		})
	}
}

// Traces are what the node itself has of a pod: cgroups, and the kubelet's directory of it. Logs stay until a collection each minute.
func (n *Node) Traces(t testing.TB, uid string) (found []string) {
	t.Helper()
	for _, group := range groups(filepath.Base(n.dir)) {
		for _, pattern := range []string{"kubepods/*/pod" + uid, "kubepods/pod" + uid} {
			list, err := filepath.Glob(filepath.Join(group, pattern))
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, list...)
		}
	}
	if _, err := os.Stat(n.path("kubelet/pods/" + uid)); err == nil {
		found = append(found, n.path("kubelet/pods/"+uid))
	}
	return found
}

// Networks counts the network namespaces of pods.
func (n *Node) Networks(t testing.TB) int {
	t.Helper()
	list, err := filepath.Glob("/run/netns/cni-*")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Step is when a part of a pod's start was done, by the cluster's own clock, which counts seconds, and by the watch.
type Step struct {
	Name string
	At   time.Time
}

// Watch begins to note the steps of the next pod of a namespace; what it returns ends that.
func (n *Node) Watch(t *testing.T, namespace string) func() []Step {
	t.Helper()
	w, err := n.api.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []Step, 1)
	go func() {
		var steps []Step
		seen := map[string]bool{}
		add := func(name string, is bool) {
			if is && !seen[name] {
				seen[name] = true
				steps = append(steps, Step{name, time.Now()})
			}
		}
		for e := range w.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok || pod.Labels["app.kubernetes.io/name"] != "lap-sandbox" {
				continue
			}
			add("created", true)
			add("scheduled", pod.Spec.NodeName != "")
			for _, c := range pod.Status.InitContainerStatuses {
				add("sandboxd installed", c.State.Terminated != nil)
			}
			for _, c := range pod.Status.ContainerStatuses {
				add("container runs", c.State.Running != nil)
				add("sandboxd answers", c.Started != nil && *c.Started)
			}
		}
		done <- steps
	}()
	return func() []Step {
		w.Stop()
		return <-done
	}
}

// Sandboxes makes a namespace for sandboxes.
func (n *Node) Sandboxes(t *testing.T, name string) {
	t.Helper()
	n.Apply(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}})
}

// File is the path of a file of the room: of one that Images made, or kubeconfig.
func (n *Node) File(name string) string { return n.path(name) }

// Service returns the address of a service.
func (n *Node) Service(t testing.TB, namespace, name string) string {
	t.Helper()
	svc, err := n.api.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc.Spec.ClusterIP
}
