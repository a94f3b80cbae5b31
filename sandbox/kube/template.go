package kube

import (
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// parseTemplate reads an operator's PodTemplateSpec. Unknown fields are refused, and so is what would undo the isolation of
// sandboxes and cannot be corrected by setting a field. The error does not show values.
func parseTemplate(text string) (*corev1.PodTemplateSpec, error) {
	t := &corev1.PodTemplateSpec{}
	if err := yaml.UnmarshalStrict([]byte(text), t); err != nil {
		return nil, errors.New("is not the YAML of a PodTemplateSpec: wrong syntax, or a field that does not exist or has another type")
	}
	var errs []error
	for _, v := range t.Spec.Volumes {
		if v.HostPath != nil {
			errs = append(errs, errors.New("has a hostPath volume, which would let sandboxes reach their node"))
		}
	}
	for _, c := range allContainers(&t.Spec) {
		if c.Name == HarnessContainer || c.Name == InstallContainer {
			continue
		}
		if c.Image == "" {
			errs = append(errs, errors.New("has a container without an image"))
		}
	}
	return t, errors.Join(errs...)
}

// merge lays the platform's pod over the template's.
func merge(t *corev1.PodTemplateSpec, own *corev1.Pod) (*corev1.Pod, error) {
	if t == nil {
		return own, nil
	}
	base, err := json.Marshal(corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: t.Labels, Annotations: t.Annotations}, Spec: t.Spec,
	})
	if err != nil {
		return nil, err
	}
	over, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(base, over, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("merge the pod template: %w", err)
	}
	pod := &corev1.Pod{}
	return pod, json.Unmarshal(merged, pod)
}

// secure takes back what a template may have opened, for the containers it added, too: Pod Security "restricted".
func secure(s *corev1.PodSpec) {
	s.HostNetwork, s.HostPID, s.HostIPC, s.ShareProcessNamespace = false, false, false, nil
	s.EphemeralContainers = nil
	was := s.SecurityContext
	s.SecurityContext = podSecurity()
	s.SecurityContext.SELinuxOptions, s.SecurityContext.SupplementalGroups = was.SELinuxOptions, was.SupplementalGroups
	for _, c := range allContainers(s) {
		own := c.Name == HarnessContainer || c.Name == InstallContainer
		was := c.SecurityContext
		c.SecurityContext = containerSecurity()
		if !own && (was == nil || was.ReadOnlyRootFilesystem == nil || !*was.ReadOnlyRootFilesystem) {
			c.SecurityContext.ReadOnlyRootFilesystem = nil
		}
		for i := range c.Ports {
			c.Ports[i].HostPort, c.Ports[i].HostIP = 0, ""
		}
		if own {
			c.Args, c.Lifecycle = nil, nil
		}
	}
}

func allContainers(s *corev1.PodSpec) []*corev1.Container {
	var all []*corev1.Container
	for i := range s.InitContainers {
		all = append(all, &s.InitContainers[i])
	}
	for i := range s.Containers {
		all = append(all, &s.Containers[i])
	}
	return all
}
