package kube

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	describedEvents = 50
	readEvents      = 500 // more are not read; the API server does not sort them
)

var _ sandbox.Describer = (*Runtime)(nil)

// Describe implements sandbox.Describer. Its node, conditions and containers are those of the watch, its events are asked for.
func (r *Runtime) Describe(ctx context.Context, id sandbox.ID) (sandbox.Description, error) {
	pod, err := r.pod(ctx, id)
	if err != nil {
		return sandbox.Description{}, err
	}
	d := sandbox.Description{Node: pod.Spec.NodeName, Containers: containers(pod)}
	for _, c := range pod.Status.Conditions {
		d.Conditions = append(d.Conditions, sandbox.Condition{
			Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: words("", c.Message), ChangedAt: c.LastTransitionTime.UTC(),
		})
	}
	list, err := r.core.Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.kind": "Pod", "involvedObject.name": pod.Name}.String(), Limit: readEvents,
	})
	if err != nil {
		return d, fmt.Errorf("events of pod %s: %w", pod.Name, refused(err))
	}
	for i := range list.Items {
		e := &list.Items[i]
		d.Events = append(d.Events, sandbox.Event{
			At: happened(e), Type: e.Type, Reason: e.Reason, Message: words("", e.Message), Count: max(1, int(e.Count)),
		})
	}
	slices.SortStableFunc(d.Events, func(a, b sandbox.Event) int { return a.At.Compare(b.At) })
	d.Events = d.Events[max(0, len(d.Events)-describedEvents):]
	return d, nil
}

// happened is when an event came last: its writers fill different fields.
func happened(e *corev1.Event) time.Time {
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time, e.FirstTimestamp.Time} {
		if !t.IsZero() {
			return t.UTC()
		}
	}
	return e.CreationTimestamp.UTC()
}

func containers(pod *corev1.Pod) []sandbox.Container {
	statuses := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	var out []sandbox.Container
	for _, c := range allContainers(&pod.Spec) {
		one := sandbox.Container{Name: c.Name, Image: c.Image, State: "unknown"}
		if s := containerStatus(statuses, c.Name); s != nil {
			switch {
			case s.State.Waiting != nil:
				one.State, one.Reason, one.Message = "waiting", s.State.Waiting.Reason, words("", s.State.Waiting.Message)
			case s.State.Running != nil:
				one.State = "running"
			case s.State.Terminated != nil:
				t := s.State.Terminated
				one.State, one.Reason, one.Message, one.ExitCode = "terminated", t.Reason, words("", t.Message), ptr(int(t.ExitCode))
			}
		}
		out = append(out, one)
	}
	return out
}
