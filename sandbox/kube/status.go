package kube

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const maxWords = 600 // bytes of what the cluster says that are passed on

// ending is why a sandbox is over; the zero value: it is not.
type ending struct {
	cause  sandbox.Cause
	reason string
	code   *int
}

// status is what a pod says of its sandbox. Container states count, not only the phase: most of what goes wrong never changes that.
func status(pod *corev1.Pod) sandbox.Status {
	s := sandbox.Status{
		ID: sandbox.ID(pod.Name), SessionID: pod.Labels[sessionLabel], State: sandbox.Starting, CreatedAt: pod.CreationTimestamp.UTC(),
	}
	main := containerStatus(pod.Status.ContainerStatuses, HarnessContainer)
	if end := ended(pod, main); end.reason != "" {
		s.State, s.Cause, s.Reason, s.ExitCode = sandbox.Exited, end.cause, end.reason, end.code
		return s
	}
	if main != nil && main.State.Running != nil && main.Started != nil && *main.Started {
		s.State = sandbox.Running
		return s
	}
	s.Cause, s.Detail = progress(pod, main)
	return s
}

// ended returns why a sandbox is over. What ended the container is more telling than that its pod goes.
func ended(pod *corev1.Pod, main *corev1.ContainerStatus) ending {
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "" {
		return podFailed(pod)
	}
	if moved := disruption(pod); moved.reason != "" {
		return moved
	}
	for i := range pod.Status.InitContainerStatuses {
		if end := initFailed(pod, &pod.Status.InitContainerStatuses[i]); end.reason != "" {
			return end
		}
	}
	if main != nil {
		if t := main.State.Terminated; t != nil {
			end := containerEnded(pod, t)
			end.code = ptr(int(t.ExitCode))
			return end
		}
		if end := cannotStart(pod, main); end.reason != "" {
			return end
		}
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return ending{cause: sandbox.CauseDeleted, reason: "its pod was deleted"}
	case pod.Status.Phase == corev1.PodFailed, pod.Status.Phase == corev1.PodSucceeded:
		return ending{cause: sandbox.CauseCrashed, reason: words("its pod ended", pod.Status.Message)}
	}
	return ending{}
}

// disruption names who takes the pod away.
func disruption(pod *corev1.Pod) ending {
	c := condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue {
		return ending{}
	}
	switch c.Reason {
	case corev1.PodReasonPreemptionByScheduler:
		return ending{cause: sandbox.CausePreempted, reason: words(
			"a pod of higher priority took its place (preempted); give sandboxes a priority class or the cluster more room", c.Message)}
	case "DeletionByTaintManager", "DeletionByPodGC":
		return nodeLost(pod, c.Message)
	}
	return ending{cause: sandbox.CauseEvicted, reason: words("its pod was evicted from node "+pod.Spec.NodeName, c.Message)}
}

func nodeLost(pod *corev1.Pod, said string) ending {
	return ending{cause: sandbox.CauseNodeLost, reason: words("its node "+pod.Spec.NodeName+" is lost", said)}
}

// podFailed is about pods that the kubelet or the control plane gave up as a whole.
func podFailed(pod *corev1.Pod) ending {
	node, said := pod.Spec.NodeName, pod.Status.Message
	switch pod.Status.Reason {
	case "Evicted":
		return ending{cause: sandbox.CauseEvicted, reason: words("its pod was evicted from node "+node, said)}
	case "NodeLost":
		return nodeLost(pod, said)
	case "Terminated", "NodeShutdown", "Shutdown":
		return ending{cause: sandbox.CauseNodeShutdown, reason: words("its node "+node+" was shut down", said)}
	}
	return ending{cause: sandbox.CauseNotAdmitted, reason: words("node "+node+" refused or ended its pod ("+pod.Status.Reason+")", said)}
}

func initFailed(pod *corev1.Pod, c *corev1.ContainerStatus) ending {
	if end := cannotStart(pod, c); end.reason != "" {
		return end
	}
	t := c.State.Terminated
	if t == nil || t.ExitCode == 0 {
		return ending{}
	}
	return ending{
		cause: sandbox.CauseInitFailed, code: ptr(int(t.ExitCode)),
		reason: words(fmt.Sprintf("its init container %s failed with exit code %d", c.Name, t.ExitCode), t.Message),
	}
}

// cannotStart is about containers that wait for what will not come by itself.
func cannotStart(pod *corev1.Pod, c *corev1.ContainerStatus) ending {
	w := c.State.Waiting
	if w == nil {
		return ending{}
	}
	image := imageOf(pod, c.Name)
	switch w.Reason {
	case "ImagePullBackOff":
		return imagePull(image, w.Message)
	case "ErrImagePull":
		if hopeless(w.Message) {
			return imagePull(image, w.Message)
		}
	case "InvalidImageName":
		return ending{cause: sandbox.CauseImageName, reason: words("image name "+image+" is invalid", w.Message)}
	case "ErrImageNeverPull":
		return ending{cause: sandbox.CauseImagePull, reason: "image " + image + " is not on node " + pod.Spec.NodeName + " and the pull policy is Never"}
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff", "StartError":
		return ending{cause: sandbox.CauseCannotStart, reason: words("container "+c.Name+" cannot be started ("+w.Reason+")", w.Message)}
	}
	return ending{}
}

func imagePull(image, said string) ending {
	return ending{cause: sandbox.CauseImagePull, reason: words("image "+image+" cannot be pulled; check its name, the registry and the pull secrets", said)}
}

// hopeless tells refusals of a registry from its failures, which the kubelet tries again.
func hopeless(message string) bool {
	m := strings.ToLower(message)
	return slices.ContainsFunc([]string{"not found", "unknown", "unauthorized", "denied", "forbidden", "no match for platform"},
		func(s string) bool { return strings.Contains(m, s) })
}

func containerEnded(pod *corev1.Pod, t *corev1.ContainerStateTerminated) ending {
	crashed := func(meaning string) ending {
		return ending{cause: sandbox.CauseCrashed, reason: words(meaning, t.Message)}
	}
	switch {
	case t.Reason == "OOMKilled":
		limit := "its memory limit"
		if c := container(pod.Spec.Containers, HarnessContainer); c != nil && !c.Resources.Limits.Memory().IsZero() {
			limit = "its memory limit of " + c.Resources.Limits.Memory().String()
		}
		return ending{cause: sandbox.CauseOutOfMemory, reason: "it was killed because it reached " + limit +
			" (OOMKilled); raise the limit in SANDBOX_POD_TEMPLATE or let the agent do less at once"}
	case t.Reason == "ContainerStatusUnknown":
		return nodeLost(pod, t.Message)
	case t.Reason == "StartError", t.Reason == "ContainerCannotRun":
		return ending{cause: sandbox.CauseCannotStart, reason: words("its container cannot be started ("+t.Reason+")", t.Message)}
	case t.Signal != 0:
		return crashed(fmt.Sprintf("sandboxd was killed by signal %d", t.Signal))
	case t.ExitCode > 128:
		return crashed(fmt.Sprintf("sandboxd was killed by signal %d", t.ExitCode-128))
	case t.ExitCode != 0:
		return crashed(fmt.Sprintf("sandboxd failed with exit code %d", t.ExitCode))
	}
	return crashed("sandboxd ended")
}

// progress is one sentence on what a pod waits for, and what holds it up if something does.
func progress(pod *corev1.Pod, main *corev1.ContainerStatus) (sandbox.Cause, string) {
	if c := condition(pod, corev1.PodScheduled); pod.Spec.NodeName == "" {
		if c != nil && c.Status == corev1.ConditionFalse {
			return sandbox.CauseUnschedulable, words("no node can take its pod ("+c.Reason+")", c.Message)
		}
		return "", "its pod waits for a node"
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if w := list[i].State.Waiting; w != nil && w.Reason != "" && w.Reason != "PodInitializing" && w.Reason != "ContainerCreating" {
				cause := sandbox.CauseCannotStart
				if w.Reason == "ErrImagePull" {
					cause = sandbox.CauseImagePull
				}
				return cause, words("container "+list[i].Name+" waits ("+w.Reason+")", w.Message)
			}
		}
	}
	if main != nil && main.State.Running != nil {
		return "", "sandboxd starts"
	}
	return "", "node " + pod.Spec.NodeName + " prepares its containers"
}

func containerStatus(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	if i := slices.IndexFunc(list, func(c corev1.ContainerStatus) bool { return c.Name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

func condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	if i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == t }); i >= 0 {
		return &pod.Status.Conditions[i]
	}
	return nil
}

func imageOf(pod *corev1.Pod, name string) string {
	for _, c := range allContainers(&pod.Spec) {
		if c.Name == name {
			return c.Image
		}
	}
	return ""
}

// words puts what the cluster says, on one line and bounded, behind what it means. Either may be empty.
func words(meaning, said string) string {
	said = strings.Join(strings.Fields(strings.ToValidUTF8(said, "\uFFFD")), " ")
	if len(said) > maxWords { // the end of a log is what tells
		said = "…" + strings.ToValidUTF8(said[len(said)-maxWords:], "")
	}
	if said == "" || meaning == "" {
		return meaning + said
	}
	return meaning + ": " + said
}
