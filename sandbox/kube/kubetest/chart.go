package kubetest

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// Render returns the objects of the chart as Helm renders it with values in YAML, or what Helm says against them.
func Render(t *testing.T, namespace, values string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	dir, err := Built(filepath.Join(moduleDir(), "sandbox", "kube", "kubetest", "helm"), map[string]string{"helm": "helm.sh/helm/v3/cmd/helm"})
	if err != nil {
		t.Fatal(err)
	}
	// It is built without the version of Kubernetes that it knows.
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "helm"), "template", "release", filepath.Join(moduleDir(), "server", "deploy"),
		"--namespace", namespace, "--kube-version", "1.37.2", "--values", "-")
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	cmd.Stdin = strings.NewReader(values)
	var out, fault bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &fault
	if err := cmd.Run(); err != nil {
		return nil, errors.New(fault.String())
	}
	var objects []*unstructured.Unstructured
	for doc := range strings.SplitSeq(out.String(), "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// DryRun has the API server check an object as strictly as it can, without keeping it.
func (p *Plane) DryRun(t *testing.T, o *unstructured.Unstructured) error {
	t.Helper()
	c, err := client.New(p.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Create(t.Context(), o.DeepCopy(), &client.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, Raw: &metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict},
	})
}

// Apply keeps an object.
func (p *Plane) Apply(t *testing.T, o client.Object) {
	t.Helper()
	c, err := client.New(p.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}
