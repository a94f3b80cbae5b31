package kube_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

func TestASandboxIsDescribedInTheWordsOfTheCluster(t *testing.T) {
	t.Parallel()
	s := newSubject(t, nil, kubetest.KubeletOptions{})
	rt, ns := s.kube(), s.o.Namespace
	spec := create(t, rt)
	sandboxtest.Eventually(t, "it runs", func() error {
		st, err := rt.Get(t.Context(), spec.ID)
		if err == nil && st.State != sandbox.Running {
			err = errors.New(st.Detail)
		}
		return err
	})
	events := plane.Clients(t).CoreV1().Events(ns)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 60 { // written in no order; others are about something else
		about := string(spec.ID)
		if i == 59 {
			about = "neighbour"
		}
		at := start.Add(time.Duration(i*7%60) * time.Second)
		_, err := events.Create(t.Context(), &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("event-%d", i)},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: about, Namespace: ns},
			Type:           "Warning", Reason: "FailedMount", Message: fmt.Sprintf("volume\n%d", i), Count: 2, LastTimestamp: metav1.NewTime(at),
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := rt.Describe(t.Context(), spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d.Node != "node-"+ns || len(d.Containers) != 2 || d.Containers[0].State != "terminated" || *d.Containers[0].ExitCode != 0 ||
		d.Containers[1].State != "running" || d.Containers[1].Image != "lap-opencode:test" {
		t.Errorf("got %+v", d)
	}
	if len(d.Events) != 50 || d.Events[0].Count != 2 || d.Events[0].Reason != "FailedMount" {
		t.Fatalf("%d events: %+v", len(d.Events), d.Events)
	}
	for i, e := range d.Events {
		if strings.Contains(e.Message, "\n") || i > 0 && e.At.Before(d.Events[i-1].At) {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	if last := d.Events[49].At; !last.Equal(start.Add(59*time.Second)) && !last.Equal(start.Add(58*time.Second)) {
		t.Errorf("the last event is of %v", last)
	}
	if _, err := rt.Describe(t.Context(), "unknown"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("of an unknown one: %v", err)
	}
}
