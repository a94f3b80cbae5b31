package kube_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
)

const template = `
metadata:
  labels: {team: agents, app.kubernetes.io/name: mine}
  annotations: {note: operator}
spec:
  nodeSelector: {pool: sandboxes}
  runtimeClassName: gvisor
  priorityClassName: sandboxes
  imagePullSecrets: [{name: registry}]
  tolerations: [{key: sandboxes, operator: Exists}]
  hostNetwork: true
  hostPID: true
  shareProcessNamespace: true
  automountServiceAccountToken: true
  restartPolicy: Always
  securityContext: {runAsUser: 0, runAsNonRoot: false, supplementalGroups: [7], seccompProfile: {type: Unconfined}}
  volumes: [{name: ca, configMap: {name: ca}}]
  initContainers: [{name: warm, image: "busybox:1", securityContext: {privileged: true, runAsUser: 0}}]
  containers:
  - name: harness
    image: evil:1
    command: [evil]
    args: [--evil]
    securityContext: {privileged: true, capabilities: {add: [SYS_ADMIN]}}
    env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}, {name: HOME, value: /root}]
    resources: {limits: {memory: 256Mi}}
    volumeMounts: [{name: ca, mountPath: /etc/ca}]
    lifecycle: {postStart: {exec: {command: [evil]}}}
  - name: sidecar
    image: sidecar:1
    ports: [{containerPort: 9000, hostPort: 9000}]
    securityContext: {allowPrivilegeEscalation: true, capabilities: {add: [NET_ADMIN]}}
`

func podOptions(change func(*kube.Options)) kube.Options {
	o := kube.Options{
		Config: &rest.Config{}, Namespace: "sandboxes", Image: "lap:1", Images: map[string]string{"opencode": "lap-opencode:1", "codex": "lap-codex:1"},
	}
	if change != nil {
		change(&o)
	}
	return o
}

func testSpec() sandbox.Spec {
	return sandbox.Spec{
		ID: "7d7c0c5e-7ba7-4c3b-9d8e-1f2a3b4c5d6e", SessionID: "01a20b98-2ff3-7408-b5bb-0e8e479f70be", Harness: "opencode",
		CallerKey: []byte("0123456789abcdef0123456789abcdef"),
	}
}

func TestPodsAreAsTheyWere(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]kube.Options{
		"pod-plain.yaml": podOptions(nil),
		"pod-proxied.yaml": podOptions(func(o *kube.Options) {
			o.Network, o.Template = proxied(), "spec: {dnsPolicy: Default, dnsConfig: {nameservers: [9.9.9.9], searches: [example.com], options: [{name: ndots}]}, containers: []}"
		}),
		"pod-volume.yaml": podOptions(func(o *kube.Options) { o.VolumeSize, o.PullPolicy = "10Gi", "Never" }),
		"pod-classes.yaml": podOptions(func(o *kube.Options) {
			o.Template, o.RuntimeClass, o.PriorityClass, o.PullSecrets = template, "kata", "batch", []string{"registry", "second"}
		}),
		"pod-template.yaml": podOptions(func(o *kube.Options) { o.Template = template }),
	} {
		text, err := yaml.Marshal(buildPod(t, o))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, string(text))
	}
}

func buildPod(t *testing.T, o kube.Options) *corev1.Pod {
	t.Helper()
	pod, err := kube.Pod(testSpec(), o)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestATemplateWhateverItSaysIsAdmittedAsRestricted(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	for name, text := range map[string]string{"none": "", "hostile": template} {
		pod := buildPod(t, podOptions(func(o *kube.Options) { o.Template, o.Namespace = text, ns }))
		pod.Spec.PriorityClassName, pod.Spec.RuntimeClassName = "", nil // objects that this cluster does not have
		_, err := plane.Clients(t).CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	pod := buildPod(t, podOptions(func(o *kube.Options) { o.Namespace = ns }))
	pod.Spec.Containers[0].SecurityContext.Capabilities.Drop = nil
	if _, err := plane.Clients(t).CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
		t.Error("the namespace admits what is not restricted: this test shows nothing")
	}
}

func TestATemplateThatCannotBeMadeSafeIsRefusedWithoutItsValues(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no YAML":         "spec: [canary",
		"unknown field":   "spec: {canary: 1}",
		"wrong type":      "spec: {volumes: canary}",
		"host path":       "spec: {volumes: [{name: canary, hostPath: {path: /canary}}]}",
		"imageless":       "spec: {containers: [{name: canary}]}",
		"not a template":  "canary",
		"a pod's version": "apiVersion: v1\nkind: Canary\nspec: {}",
	} {
		_, err := kube.New(podOptions(func(o *kube.Options) { o.Template = text }))
		if err == nil || !strings.HasPrefix(err.Error(), "SANDBOX_POD_TEMPLATE ") || strings.Contains(strings.ToLower(err.Error()), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimitsOfATemplateLowerWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	pod := buildPod(t, podOptions(func(o *kube.Options) { o.Template = template }))
	r := pod.Spec.Containers[0].Resources
	if got := fmt.Sprint(r.Limits.Memory(), r.Requests.Memory(), r.Limits.Cpu(), r.Requests.Cpu()); got != "256Mi 256Mi 2 100m" {
		t.Errorf("got %s", got)
	}
}
