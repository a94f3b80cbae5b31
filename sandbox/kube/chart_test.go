package kube_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

// chartValues are those of a release whose sandboxes are in a namespace, with further lines.
func chartValues(sandboxes string, lines ...string) string {
	return "secretName: lap\nsandboxes: {namespace: " + sandboxes + ", images: {default: 'lap-harness:1'}}\n" + strings.Join(lines, "\n")
}

func render(t *testing.T, ns, values string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := kubetest.Render(t, ns, values)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func kinds(objects []*unstructured.Unstructured) (out []string) {
	for _, o := range objects {
		out = append(out, o.GetKind())
	}
	slices.Sort(out)
	return out
}

// installMonitors brings the kinds ServiceMonitor and PodMonitor, as the operator of Prometheus does.
func installMonitors(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"ServiceMonitor", "PodMonitor"} {
		installMonitor(t, kind)
	}
}

func installMonitor(t *testing.T, kind string) {
	t.Helper()
	singular := strings.ToLower(kind)
	plane.Apply(t, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": singular + "s.monitoring.coreos.com"},
		"spec": map[string]any{
			"group": "monitoring.coreos.com", "scope": "Namespaced",
			"names": map[string]any{"kind": kind, "plural": singular + "s", "singular": singular},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}})
}

func TestTheChartIsAcceptedByTheClusterWhateverIsChosen(t *testing.T) {
	t.Parallel()
	installMonitors(t)
	ns, sandboxes := plane.Namespace(t), plane.Namespace(t)
	// The namespace admits restricted pods only. It warns of templates that are not, and refuses their pods.
	for name, c := range map[string]struct {
		values string
		kinds  []string
	}{
		"plain": {chartValues(sandboxes), []string{
			"Deployment", "Deployment", "Namespace", "NetworkPolicy", "NetworkPolicy", "PodDisruptionBudget", "PodDisruptionBudget", "Role",
			"RoleBinding", "Service", "Service", "Service", "ServiceAccount",
		}},
		"everything": {chartValues(sandboxes, `
replicas: 3
image: {repository: registry.example.com/lap, tag: v2, pullSecrets: [a, b]}
gateway: {url: 'http://litellm.models.svc:4000', pods: models/app=litellm}
env: {LOG_LEVEL: debug, MAX_SESSIONS: 500}
nodeSelector: {pool: platform}
tolerations: [{key: platform, operator: Exists}]
affinity: {nodeAffinity: {}}
networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}
egress: {replicas: 5, checkSource: false, drainSeconds: 60, env: {LOG_LEVEL: debug}}
serviceMonitor: {enabled: true, labels: {release: prometheus}}`), []string{
			"Deployment", "Deployment", "Namespace", "NetworkPolicy", "NetworkPolicy", "PodDisruptionBudget", "PodDisruptionBudget", "PodMonitor", "Role",
			"RoleBinding", "Service", "Service", "Service", "ServiceAccount", "ServiceMonitor",
		}},
		"least": {"secretName: lap\npodDisruptionBudget: {enabled: false}\nnetworkPolicy: {enabled: false}\negress: {enabled: false}\nsandboxes: {namespace: " + sandboxes +
			", createNamespace: false}", []string{"Deployment", "Role", "RoleBinding", "Service", "ServiceAccount"}},
	} {
		objects := render(t, ns, c.values)
		if got := kinds(objects); !slices.Equal(got, c.kinds) {
			t.Errorf("%s: there are %v", name, got)
		}
		for _, o := range objects {
			check := o
			if o.GetKind() == "Namespace" {
				check = o.DeepCopy()
				check.SetName("new-" + sandboxes)
			}
			sandboxtest.Eventually(t, name+": "+o.GetKind()+" is accepted", func() error { // a new kind is not served at once
				err := plane.DryRun(t, check)
				if err != nil && !strings.HasSuffix(o.GetKind(), "Monitor") {
					t.Fatalf("%s: %s: %v", name, o.GetKind(), err)
				}
				return err
			})
			if o.GetKind() == "Deployment" {
				if err := plane.DryRun(t, podOfTemplate(t, o)); err != nil {
					t.Errorf("%s: a pod of the deployment: %v", name, err)
				}
			}
		}
	}
}

// podOfTemplate is a pod as a deployment makes it, without its service account, which is not there.
func podOfTemplate(t *testing.T, deployment *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	template, ok, err := unstructured.NestedMap(deployment.Object, "spec", "template")
	if err != nil || !ok {
		t.Fatalf("there is no template: %v", err)
	}
	pod := &unstructured.Unstructured{Object: template}
	pod.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	pod.SetNamespace(deployment.GetNamespace())
	pod.SetName("server")
	return pod
}

func TestTheProxyOfTheChartHasOneSecretAndNoRights(t *testing.T) {
	t.Parallel()
	proxies := 0
	for _, o := range render(t, "lap", chartValues("boxes", "env: {DATABASE_URL: not-its-business}")) {
		text := asYAML(t, o.Object)
		isProxy := strings.HasSuffix(o.GetName(), "-egress")
		switch kind := o.GetKind(); {
		case isProxy && kind == "Deployment":
			proxies++
			if strings.Count(text, "secretKeyRef") != 1 || strings.Contains(text, "envFrom") || strings.Contains(text, "DATABASE_URL") ||
				!strings.Contains(text, "automountServiceAccountToken: false") || strings.Contains(text, "serviceAccountName") {
				t.Errorf("the proxy has more than it needs:\n%s", text)
			}
		case isProxy && kind == "NetworkPolicy":
			if strings.Count(text, "from:") != 1 || !strings.Contains(text, "kubernetes.io/metadata.name: boxes") || !strings.Contains(text, "app.kubernetes.io/name: lap-sandbox") {
				t.Errorf("more than sandboxes may connect to the proxy:\n%s", text)
			}
		case kind == "NetworkPolicy":
			if !strings.Contains(text, "app.kubernetes.io/name: lap-egress") || !strings.Contains(text, "port: feed") {
				t.Errorf("replicas may not connect to the server:\n%s", text)
			}
		case isProxy && (kind == "Role" || kind == "RoleBinding" || kind == "ServiceAccount"):
			t.Errorf("the proxy has a %s", kind)
		}
	}
	if proxies != 1 {
		t.Errorf("there are %d proxies", proxies)
	}
	for _, o := range render(t, "lap", chartValues("boxes", "egress: {enabled: false}")) {
		if text := asYAML(t, o.Object); strings.Contains(text, "EGRESS_PROXY_ADDR") || strings.Contains(text, "lap-egress") || strings.Contains(text, "feed") {
			t.Errorf("without it there is\n%s", text)
		}
	}
}

func TestTheChartSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := kubetest.Render(t, "lap", "{}"); err == nil || !strings.Contains(err.Error(), "secretName is required") {
		t.Errorf("got %v", err)
	}
}

// chartRole is the chart's Role for a namespace.
func chartRole(t *testing.T, ns string) *rbacv1.Role {
	t.Helper()
	role := &rbacv1.Role{}
	for _, o := range render(t, "lap", chartValues(ns)) {
		if o.GetKind() == "Role" {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role); err != nil {
				t.Fatal(err)
			}
		}
	}
	return role
}

// as returns how a new user connects who may do in a namespace what rules say, and nothing else.
func as(t *testing.T, ns string, rules []rbacv1.PolicyRule) kube.Options {
	t.Helper()
	user := "lap-" + sandboxtest.NewID()
	meta := metav1.ObjectMeta{Name: user, Namespace: ns}
	plane.Apply(t, &rbacv1.Role{ObjectMeta: meta, Rules: rules})
	plane.Apply(t, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
	o := options(t)
	o.Config, o.Namespace = plane.User(t, user), ns
	return o
}

func TestTheChartGivesExactlyTheRightsThatAreUsed(t *testing.T) {
	t.Parallel()
	got, want := asYAML(t, chartRole(t, "x").Rules), asYAML(t, kube.Permissions(false))
	if got != want {
		t.Errorf("the chart's Role is not kube.Permissions:\n%s", diff(want, got))
	}
}

func TestTheRuntimeConformsWithTheRightsOfTheChart(t *testing.T) {
	t.Parallel()
	sandboxtest.Conformance(t, func(t *testing.T) sandboxtest.Subject {
		return newSubject(t, func(o *kube.Options) {
			user := as(t, o.Namespace, chartRole(t, o.Namespace).Rules)
			o.Config = user.Config
		}, kubetest.KubeletOptions{})
	})
}

// exercise does what the platform does with a session, and returns the first thing that does not work.
func exercise(t *testing.T, o kube.Options) error {
	t.Helper()
	rt, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ctx, settings, spec := t.Context(), rt.Settings(), newSpec()
	for range 2 { // the second time the policies, the claim and the settings are there
		err = errors.Join(settings.Put(ctx, spec.SessionID, map[string]string{"A": "1"}), rt.Create(ctx, spec))
	}
	if err != nil {
		return err
	}
	if _, err := settings.Get(ctx, spec.SessionID); err != nil {
		return err
	}
	if _, err := settings.List(ctx); err != nil {
		return err
	}
	if _, err := rt.List(ctx); err != nil {
		return err
	}
	if _, err := rt.Describe(ctx, spec.ID); err != nil {
		return err
	}
	if _, err := rt.Get(ctx, "unknown"); !errors.Is(err, sandbox.ErrNotFound) {
		return err
	}
	if log, err := rt.Logs(ctx, spec.ID, sandbox.LogOptions{}); err == nil {
		_ = log.Close()
	} else if strings.Contains(err.Error(), "does not let the platform") {
		return err
	}
	for _, c := range rt.Check(ctx).Checks {
		if c.Name == "watch" && c.Fault != "" {
			return errors.New(c.Fault)
		}
	}
	return errors.Join(rt.Delete(ctx, spec.ID), rt.DeleteWorkspace(ctx, spec.SessionID), settings.Delete(ctx, spec.SessionID))
}

func TestWithoutAnyOneOfItsRightsThePlatformDoesNotWork(t *testing.T) {
	t.Parallel()
	role := chartRole(t, "x").Rules
	ns := plane.Namespace(t)
	plane.StartKubelet(t, ns, kubetest.KubeletOptions{})
	if err := exercise(t, as(t, ns, role)); err != nil {
		t.Fatalf("with all: %v", err)
	}
	for i, rule := range role {
		for j, verb := range rule.Verbs {
			if verb == "list" && rule.Resources[0] == "pods" {
				continue // for API servers that do not stream lists to watchers yet; this one does
			}
			t.Run(fmt.Sprintf("%s %s", verb, rule.Resources[0]), func(t *testing.T) {
				t.Parallel()
				ns := plane.Namespace(t)
				plane.StartKubelet(t, ns, kubetest.KubeletOptions{})
				var less []rbacv1.PolicyRule
				for k := range role {
					less = append(less, *role[k].DeepCopy())
				}
				if less[i].Verbs = slices.Delete(less[i].Verbs, j, j+1); len(less[i].Verbs) == 0 {
					less = slices.Delete(less, i, i+1)
				}
				o := as(t, ns, less)
				if rule.Resources[0] == "networkpolicies" && verb == "update" {
					weaken(t, o) // policies that are right are not updated
				}
				if err := exercise(t, o); err == nil {
					t.Error("it is never used")
				}
			})
		}
	}
}

// weaken leaves a policy in the namespace that is not as it should be.
func weaken(t *testing.T, o kube.Options) {
	t.Helper()
	policies, err := kube.Policies(o)
	if err != nil {
		t.Fatal(err)
	}
	policies[1].Spec.Egress = nil
	plane.Apply(t, policies[1])
}
