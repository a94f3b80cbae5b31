package kubetest

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const sessionLabel = "litellm-agent-platform/session"

// Objects names the pods, volume claims and secrets of a namespace, and returns what all but the secrets say.
func (p *Plane) Objects(t *testing.T, namespace string) (names []string, text string) {
	t.Helper()
	core := p.Clients(t).CoreV1()
	pods, err := core.Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := core.PersistentVolumeClaims(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := core.Secrets(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods.Items {
		names = append(names, "pod "+pods.Items[i].Name)
	}
	for i := range claims.Items {
		names = append(names, "persistentvolumeclaim "+claims.Items[i].Name)
	}
	for i := range secrets.Items {
		names = append(names, "secret "+secrets.Items[i].Name)
	}
	shown, err := json.Marshal([]any{pods, claims})
	if err != nil {
		t.Fatal(err)
	}
	return names, string(shown)
}

// DeletePods deletes the pods of a session as an operator would, and returns how many there were.
func (p *Plane) DeletePods(t *testing.T, namespace, session string) int {
	t.Helper()
	pods := p.Clients(t).CoreV1().Pods(namespace)
	list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: sessionLabel + "=" + session})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if err := pods.Delete(t.Context(), list.Items[i].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return len(list.Items)
}
