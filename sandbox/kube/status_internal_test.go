package kube

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// pod makes a pod as it is when its container runs, and changes it.
func testPod(change func(*corev1.Pod)) *corev1.Pod {
	o := Options{Namespace: "sandboxes", Image: "lap:1", Images: map[string]string{"opencode": "lap-opencode:1"}}
	pod, err := podOf(sandbox.Spec{ID: "box", SessionID: "01a20b98-2ff3-7408-b5bb-0e8e479f70be", Harness: "opencode", CallerKey: make([]byte, 32)}, o)
	if err != nil {
		panic(err)
	}
	pod.CreationTimestamp, pod.Spec.NodeName, pod.Status.Phase = metav1.Unix(1_700_000_000, 0), "n1", corev1.PodRunning
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{
		Name: InstallContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}},
	}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: HarnessContainer, Started: ptr(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}}
	change(pod)
	return pod
}

func waits(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func terminated(reason string, code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Message: message}}
}

func inMain(s corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State, p.Status.ContainerStatuses[0].Started = s, nil
	}
}

func inInit(s corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.InitContainerStatuses[0].State = s
		inMain(waits("PodInitializing", ""))(p)
	}
}

func failed(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, reason, message
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses = nil, nil
	}
}

func disrupted(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		}}
		p.DeletionTimestamp = ptr(metav1.Now())
	}
}

func unscheduled(conditions ...corev1.PodCondition) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status = "", corev1.PodStatus{Phase: corev1.PodPending, Conditions: conditions}
	}
}

func TestEveryConditionOfAPodHasAStateAndWords(t *testing.T) {
	t.Parallel()
	code := func(n int) *int { return &n }
	seen := map[string]string{}
	causes := map[string]sandbox.Cause{
		"no node": sandbox.CauseUnschedulable, "gated": sandbox.CauseUnschedulable, "pull failed": sandbox.CauseImagePull,
		"no such image": sandbox.CauseImagePull, "pull given up": sandbox.CauseImagePull, "pull of ours given up": sandbox.CauseImagePull,
		"bad image": sandbox.CauseImageName, "never pull": sandbox.CauseImagePull, "bad config": sandbox.CauseCannotStart,
		"not created": sandbox.CauseCannotStart, "init failed": sandbox.CauseInitFailed, "out of memory": sandbox.CauseOutOfMemory,
		"killed": sandbox.CauseCrashed, "crashed": sandbox.CauseCrashed, "done": sandbox.CauseCrashed, "no program": sandbox.CauseCannotStart,
		"evicted": sandbox.CauseEvicted, "drained": sandbox.CauseEvicted, "preempted": sandbox.CausePreempted, "node lost": sandbox.CauseNodeLost,
		"node gone": sandbox.CauseNodeLost, "unknown": sandbox.CauseNodeLost, "shut down": sandbox.CauseNodeShutdown,
		"not admitted": sandbox.CauseNotAdmitted, "deleted": sandbox.CauseDeleted, "failed as a whole": sandbox.CauseCrashed,
		"shut down with a condition": sandbox.CauseNodeShutdown,
	}
	for name, c := range map[string]struct {
		pod   func(*corev1.Pod)
		state sandbox.State
		words string // Detail of a starting one, Reason of an exited one
		code  *int
	}{
		"runs":       {func(*corev1.Pod) {}, sandbox.Running, "", nil},
		"not probed": {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Started = ptr(false) }, sandbox.Starting, "sandboxd starts", nil},
		"no status":  {unscheduled(), sandbox.Starting, "its pod waits for a node", nil},
		"no node": {unscheduled(corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available: 3 Insufficient cpu."}),
			sandbox.Starting, "no node can take its pod (Unschedulable): 0/3 nodes are available: 3 Insufficient cpu.", nil},
		"gated": {unscheduled(corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "SchedulingGated"}),
			sandbox.Starting, "no node can take its pod (SchedulingGated)", nil},
		"being made":  {inMain(waits("ContainerCreating", "")), sandbox.Starting, "node n1 prepares its containers", nil},
		"pull failed": {inMain(waits("ErrImagePull", "dial tcp: i/o timeout")), sandbox.Starting, "container harness waits (ErrImagePull): dial tcp: i/o timeout", nil},
		"no such image": {inMain(waits("ErrImagePull", "manifest for lap-opencode:1 Not Found")), sandbox.Exited,
			"image lap-opencode:1 cannot be pulled; check its name, the registry and the pull secrets: manifest for lap-opencode:1 Not Found", nil},
		"pull given up": {inMain(waits("ImagePullBackOff", "Back-off pulling image")), sandbox.Exited,
			"image lap-opencode:1 cannot be pulled; check its name, the registry and the pull secrets: Back-off pulling image", nil},
		"pull of ours given up": {inInit(waits("ImagePullBackOff", "")), sandbox.Exited,
			"image lap:1 cannot be pulled; check its name, the registry and the pull secrets", nil},
		"bad image":   {inMain(waits("InvalidImageName", "couldn't parse")), sandbox.Exited, "image name lap-opencode:1 is invalid: couldn't parse", nil},
		"never pull":  {inMain(waits("ErrImageNeverPull", "x")), sandbox.Exited, "image lap-opencode:1 is not on node n1 and the pull policy is Never", nil},
		"bad config":  {inMain(waits("CreateContainerConfigError", "secret \"x\" not found")), sandbox.Exited, "container harness cannot be started (CreateContainerConfigError): secret \"x\" not found", nil},
		"not created": {inInit(waits("CreateContainerError", "")), sandbox.Exited, "container install-sandboxd cannot be started (CreateContainerError)", nil},
		"init failed": {inInit(terminated("Error", 3, "no space\nleft")), sandbox.Exited, "its init container install-sandboxd failed with exit code 3: no space left", code(3)},
		"out of memory": {inMain(terminated("OOMKilled", 137, "")), sandbox.Exited,
			"it was killed because it reached its memory limit of 4Gi (OOMKilled); raise the limit in SANDBOX_POD_TEMPLATE or let the agent do less at once", code(137)},
		"killed":     {inMain(terminated("Error", 137, "")), sandbox.Exited, "sandboxd was killed by signal 9", code(137)},
		"crashed":    {inMain(terminated("Error", 2, "panic: x")), sandbox.Exited, "sandboxd failed with exit code 2: panic: x", code(2)},
		"done":       {inMain(terminated("Completed", 0, "")), sandbox.Exited, "sandboxd ended", code(0)},
		"no program": {inMain(terminated("StartError", 128, "exec: no such file")), sandbox.Exited, "its container cannot be started (StartError): exec: no such file", code(128)},
		"evicted":    {failed("Evicted", "The node was low on resource: memory."), sandbox.Exited, "its pod was evicted from node n1: The node was low on resource: memory.", nil},
		"drained":    {disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), sandbox.Exited, "its pod was evicted from node n1: Eviction API: evicting", nil},
		"preempted": {disrupted("PreemptionByScheduler", ""), sandbox.Exited,
			"a pod of higher priority took its place (preempted); give sandboxes a priority class or the cluster more room", nil},
		"node lost": {disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), sandbox.Exited, "its node n1 is lost: Taint manager: deleting due to NoExecute taint", nil},
		"node gone": {failed("NodeLost", ""), sandbox.Exited, "its node n1 is lost", nil},
		"unknown":   {inMain(terminated("ContainerStatusUnknown", 137, "The container could not be located")), sandbox.Exited, "its node n1 is lost: The container could not be located", code(137)},
		"shut down": {failed("Terminated", "Pod was terminated in response to imminent node shutdown."), sandbox.Exited, "its node n1 was shut down: Pod was terminated in response to imminent node shutdown.", nil},
		"shut down with a condition": {func(p *corev1.Pod) {
			disrupted("TerminationByKubelet", "x")(p)
			failed("Terminated", "Pod was terminated by its node's shutdown.")(p)
		}, sandbox.Exited, "its node n1 was shut down: Pod was terminated by its node's shutdown.", nil},
		"not admitted": {failed("UnexpectedAdmissionError", "no devices"), sandbox.Exited, "node n1 refused or ended its pod (UnexpectedAdmissionError): no devices", nil},
		"deleted":      {func(p *corev1.Pod) { p.DeletionTimestamp = ptr(metav1.Now()) }, sandbox.Exited, "its pod was deleted", nil},
		"failed as a whole": {func(p *corev1.Pod) {
			failed("", "odd")(p)
		}, sandbox.Exited, "its pod ended: odd", nil},
		"made by hand": {func(p *corev1.Pod) { p.Status, p.Spec.Containers = corev1.PodStatus{}, nil }, sandbox.Starting, "node n1 prepares its containers", nil},
	} {
		s := status(testPod(c.pod))
		got := s.Detail + s.Reason
		if s.State != c.state || s.Cause != causes[name] || got != c.words || (s.ExitCode == nil) != (c.code == nil) || s.ExitCode != nil && *s.ExitCode != *c.code ||
			(s.Reason != "") != (s.State == sandbox.Exited) {
			t.Errorf("%s: got %+v", name, s)
		}
		if s.ID != "box" || s.SessionID != "01a20b98-2ff3-7408-b5bb-0e8e479f70be" || !s.CreatedAt.Equal(time.Unix(1_700_000_000, 0)) {
			t.Errorf("%s: got %+v", name, s)
		}
		if other := seen[got]; other != "" && got != "" && got != "node n1 prepares its containers" {
			t.Errorf("%s and %s say the same", name, other)
		}
		seen[got] = name
	}
}

func TestWhatTheClusterSaysIsBoundedAndOnOneLine(t *testing.T) {
	t.Parallel()
	long := make([]byte, 5000)
	for i := range long {
		long[i] = "ab\n\xff"[i%4]
	}
	got := words("it failed", string(long))
	if len(got) > maxWords+20 || len(got) < maxWords-20 {
		t.Errorf("it has %d bytes: %q", len(got), got)
	}
	for _, r := range got {
		if r == '\n' || r == '\r' {
			t.Fatalf("got %q", got)
		}
	}
}
