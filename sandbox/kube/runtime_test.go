package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

// newSpec is for a session of its own.
func newSpec() sandbox.Spec {
	spec := testSpec()
	spec.ID, spec.SessionID = sandbox.ID(sandboxtest.NewID()), sandboxtest.NewID()
	return spec
}

// unattended is a runtime whose pods nobody runs: the test plays scheduler and kubelet.
func unattended(t *testing.T, change func(*kube.Options)) (*kube.Runtime, kubernetes.Interface, string) {
	t.Helper()
	o := options(t)
	if change != nil {
		change(&o)
	}
	rt, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	return rt, plane.Clients(t), o.Namespace
}

func create(t *testing.T, rt *kube.Runtime) sandbox.Spec {
	t.Helper()
	spec := newSpec()
	if err := rt.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestASandboxIsReachedThroughThePortForwardOfTheCluster(t *testing.T) {
	t.Parallel()
	sandboxtest.Conformance(t, func(t *testing.T) sandboxtest.Subject {
		return newSubject(t, func(o *kube.Options) { o.PortForward = true }, kubetest.KubeletOptions{})
	})
}

func TestTheAddressesOfASandboxAreThoseOfItsPod(t *testing.T) {
	t.Parallel()
	rt, clients, ns := unattended(t, nil)
	spec := create(t, rt)
	if list, err := rt.Addresses(t.Context(), spec.ID); err != nil || len(list) > 0 {
		t.Errorf("before it runs: %v, %v", list, err)
	}
	pod, err := clients.CoreV1().Pods(ns).Get(t.Context(), string(spec.ID), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.PodIP, pod.Status.PodIPs = "10.1.2.3", []corev1.PodIP{{IP: "10.1.2.3"}, {IP: "fd00::3"}}
	if _, err := clients.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "both are known", func() error {
		list, err := rt.Addresses(t.Context(), spec.ID)
		if got := fmt.Sprint(list); err == nil && got != "[10.1.2.3 fd00::3]" {
			err = errors.New(got)
		}
		return err
	})
	if _, err := rt.Addresses(t.Context(), "unknown"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("of one that does not exist: %v", err)
	}
}

func TestWhatGoesWrongIsToldAsSoonAsTheClusterKnows(t *testing.T) {
	t.Parallel()
	waiting := func(reason, message string) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			Name: kube.HarnessContainer, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
		}}}
	}
	for name, c := range map[string]struct {
		status corev1.PodStatus
		cause  sandbox.Cause
		state  sandbox.State
		words  string
	}{
		"image": {waiting("ImagePullBackOff", "no such host"), sandbox.CauseImagePull, sandbox.Exited, "lap-opencode:test cannot be pulled"},
		"no node": {corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available: 3 Insufficient cpu.",
		}}}, sandbox.CauseUnschedulable, sandbox.Starting, "0/3 nodes are available: 3 Insufficient cpu."},
		"memory": {corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{
			Name: kube.HarnessContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}},
		}}}, sandbox.CauseOutOfMemory, sandbox.Exited, "memory limit of 4Gi"},
		"evicted": {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory."},
			sandbox.CauseEvicted, sandbox.Exited, "low on resource: memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rt, clients, ns := unattended(t, nil)
			changes := rt.Watch(t.Context())
			spec := create(t, rt)
			pod, err := clients.CoreV1().Pods(ns).Get(t.Context(), string(spec.ID), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			pod.Status = c.status
			if _, err := clients.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			wrote, late := time.Now(), time.After(10*time.Second)
			for {
				s, err := rt.Get(t.Context(), spec.ID)
				if err == nil && s.Cause == c.cause && s.State == c.state && strings.Contains(s.Reason+s.Detail, c.words) {
					t.Logf("told after %v", time.Since(wrote))
					return
				}
				select {
				case <-changes:
				case <-late:
					t.Fatalf("after 10 s it is %+v, %v", s, err)
				}
			}
		})
	}
}

func TestAUsedUpQuotaIsNamedAndTriedAgain(t *testing.T) {
	t.Parallel()
	rt, clients, ns := unattended(t, nil)
	quotas := clients.CoreV1().ResourceQuotas(ns)
	none := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}
	quota, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "agents"}, Spec: corev1.ResourceQuotaSpec{Hard: none},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none}
	if _, err := quotas.UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := newSpec()
	sandboxtest.Eventually(t, "the quota counts", func() error { // the API server has a cache of quotas
		err := rt.Create(t.Context(), spec)
		if err == nil || !strings.Contains(err.Error(), "the namespace's quota is used up: ") || !strings.Contains(err.Error(), "agents") {
			return errors.Join(errors.New("not refused for the quota"), err, rt.Delete(t.Context(), spec.ID))
		}
		if errors.Is(err, sandbox.ErrRefused) {
			t.Error("a quota that is used up now is taken to be so for ever")
		}
		return nil
	})
	if _, err := rt.Get(t.Context(), spec.ID); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("there is a sandbox: %v", err)
	}
	if err := quotas.Delete(t.Context(), "agents", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "it is made", func() error { return rt.Create(t.Context(), spec) })
}

func TestWhatTheClusterWillNeverAdmitIsRefusedForGood(t *testing.T) {
	t.Parallel()
	rt, _, _ := unattended(t, func(o *kube.Options) { o.Template = "metadata: {labels: {team: not a label!}}" })
	err := rt.Create(t.Context(), newSpec())
	if !errors.Is(err, sandbox.ErrRefused) || !strings.Contains(err.Error(), "the cluster does not admit it: ") || !strings.Contains(err.Error(), "not a label!") {
		t.Errorf("got %v", err)
	}
}

func TestATerminatingPodIsNotAdoptedAndItsEndIsAwaited(t *testing.T) {
	t.Parallel()
	rt, clients, ns := unattended(t, nil)
	pods := clients.CoreV1().Pods(ns)
	spec := create(t, rt)
	finalizers := func(list string) {
		t.Helper()
		if _, err := pods.Patch(t.Context(), string(spec.ID), types.MergePatchType, []byte(`{"metadata":{"finalizers":`+list+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	finalizers(`["example.com/held"]`)
	deleted := make(chan error, 1)
	go func() { deleted <- rt.Delete(t.Context(), spec.ID) }()
	sandboxtest.Eventually(t, "it is being deleted", func() error {
		s, err := rt.Get(t.Context(), spec.ID)
		if err == nil && s.Cause != sandbox.CauseDeleted {
			err = errors.New("it is " + string(s.State))
		}
		return err
	})
	if err := rt.Create(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "being deleted") {
		t.Errorf("create while it goes: %v", err)
	}
	select {
	case err := <-deleted:
		t.Fatalf("delete returned while the pod is there: %v", err)
	default:
	}
	finalizers(`null`)
	select {
	case err := <-deleted:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("delete does not return")
	}
}

func TestAPodThatIsNoSandboxIsLeftAlone(t *testing.T) {
	t.Parallel()
	rt, clients, ns := unattended(t, nil)
	pod, err := kube.Pod(newSpec(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	pod.Namespace, pod.Name, pod.Labels = ns, "neighbour", nil
	if _, err := clients.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.Get(t.Context(), "neighbour"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	spec := newSpec()
	spec.ID = "neighbour"
	if err := rt.Create(t.Context(), spec); err == nil {
		t.Error("it was taken over")
	}
	if err := rt.StopAll(t.Context()); err != nil {
		t.Error(err)
	}
	if err := rt.Delete(t.Context(), "neighbour"); err != nil {
		t.Error(err)
	}
	if _, err := clients.CoreV1().Pods(ns).Get(t.Context(), "neighbour", metav1.GetOptions{}); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

func TestAClusterThatIsAwayIsAnError(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	rt, err := kube.New(podOptions(func(o *kube.Options) { o.Config = &rest.Config{Host: "http://" + addr} }))
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := rt.List(ctx); err == nil {
		t.Error("list: no error")
	}
	if err := rt.Create(t.Context(), testSpec()); err == nil || errors.Is(err, sandbox.ErrRefused) {
		t.Errorf("create: %v", err)
	}
}
