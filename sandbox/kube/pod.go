package kube

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Port is where sandboxd listens in a pod.
const Port = 7411

const (
	labelPrefix  = "litellm-agent-platform/"
	nameLabel    = "app.kubernetes.io/name"
	podName      = "lap-sandbox" // value of nameLabel: what makes a pod a sandbox
	settingsName = "lap-settings"
	sessionLabel = labelPrefix + "session"
	harnessLabel = labelPrefix + "harness"
	keyNote      = labelPrefix + "caller-key"

	// HarnessContainer is the name of the container that sandboxd and the harness run in.
	HarnessContainer = "harness"
	// InstallContainer is the name of the one before it, which brings sandboxd.
	InstallContainer = "install-sandboxd"

	uid       = 1000
	endWithin = 20 * time.Second // from SIGTERM to SIGKILL: nothing of a sandbox may run 30 s after its session has ended
	idleExitS = 3600             // a pod ends itself when no platform has called for so long
)

// programs are the names under which images have the harnesses, in PATH.
var programs = map[string]string{"opencode": "opencode", "claude-agent-sdk": "claude", "claude-code": "claude", "codex": "codex"}

// config is what sandboxd is started with.
type config struct {
	SandboxID  sandbox.ID `json:"sandbox_id"`
	CallerKey  []byte     `json:"caller_key"`
	Listen     string     `json:"listen"`
	Root       string     `json:"root"`
	StateDir   string     `json:"state_dir"`
	HarnessID  string     `json:"harness_id"`
	HarnessBin string     `json:"harness_bin"`
	IdleExitS  int        `json:"idle_exit_s"`
}

// Pod returns the pod that a Runtime with these options makes of a specification. The error is about the options.
func Pod(spec sandbox.Spec, o Options) (*corev1.Pod, error) {
	if err := o.parse(); err != nil {
		return nil, err
	}
	return podOf(spec, o)
}

// podOf depends on nothing but its arguments, and there is no prompt, repository, key or secret in the pod: those arrive by
// binding. What the operator's template says of anything else stands.
func podOf(spec sandbox.Spec, o Options) (*corev1.Pod, error) {
	c, err := json.Marshal(config{
		SandboxID: spec.ID, CallerKey: spec.CallerKey, Listen: fmt.Sprintf(":%d", Port), Root: "/", StateDir: "/state/agent",
		HarnessID: spec.Harness, HarnessBin: programs[spec.Harness], IdleExitS: idleExitS,
	})
	if err != nil {
		return nil, err
	}
	own := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: string(spec.ID), Namespace: o.Namespace, Labels: labels(spec),
			Annotations: map[string]string{
				keyNote: base64.StdEncoding.EncodeToString(spec.CallerKey), "kubectl.kubernetes.io/default-container": HarnessContainer,
			},
		},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			AutomountServiceAccountToken:  new(bool),
			EnableServiceLinks:            new(bool),
			TerminationGracePeriodSeconds: ptr(int64(endWithin.Seconds())),
			SecurityContext:               podSecurity(),
			PriorityClassName:             o.PriorityClass,
			InitContainers:                []corev1.Container{installer(o, string(c))},
			Containers:                    []corev1.Container{harnessContainer(spec, o)},
			Volumes: []corev1.Volume{
				emptyDir("sandboxd"), emptyDir("state"), emptyDir("tmp"), emptyDir("data"), workspace(spec.SessionID, o),
			},
		},
	}
	if o.RuntimeClass != "" {
		own.Spec.RuntimeClassName = &o.RuntimeClass
	}
	for _, name := range o.PullSecrets {
		own.Spec.ImagePullSecrets = append(own.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	pod, err := merge(o.template, own)
	if err != nil {
		return nil, err
	}
	secure(&pod.Spec)
	if o.Network.proxied() {
		deafen(&pod.Spec)
	}
	sizes(container(pod.Spec.Containers, HarnessContainer), "100m", "512Mi", "1Gi", "2", "4Gi", "10Gi")
	sizes(container(pod.Spec.InitContainers, InstallContainer), "10m", "32Mi", "64Mi", "1", "128Mi", "128Mi")
	return pod, nil
}

// deafen leaves a pod without DNS: the proxy resolves names, and a query is a message to whoever owns one. What asks all the same has
// its answer at once, for nobody listens there.
func deafen(s *corev1.PodSpec) {
	s.DNSPolicy, s.DNSConfig = corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{"127.0.0.1"}}
}

func labels(spec sandbox.Spec) map[string]string {
	return map[string]string{
		nameLabel: podName, "app.kubernetes.io/managed-by": "lap", sessionLabel: spec.SessionID, harnessLabel: spec.Harness,
	}
}

func installer(o Options, config string) corev1.Container {
	return corev1.Container{
		Name: InstallContainer, Image: o.Image, ImagePullPolicy: corev1.PullPolicy(o.PullPolicy),
		Command:                  []string{"/usr/local/bin/sandboxd", "install", "-to", "/lap", "-config", config},
		SecurityContext:          containerSecurity(),
		VolumeMounts:             []corev1.VolumeMount{{Name: "sandboxd", MountPath: "/lap"}},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

func harnessContainer(spec sandbox.Spec, o Options) corev1.Container {
	accepts := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(Port)}}
	return corev1.Container{
		Name: HarnessContainer, Image: o.Images[spec.Harness], ImagePullPolicy: corev1.PullPolicy(o.PullPolicy),
		Command: []string{"/lap/sandboxd", "-config", "/lap/config.json"}, WorkingDir: "/state",
		Env: []corev1.EnvVar{
			{Name: "LAP_SANDBOX_ID", Value: string(spec.ID)}, {Name: "HOME", Value: "/workspace/home"}, {Name: "TMPDIR", Value: "/tmp"},
		},
		Ports:           []corev1.ContainerPort{{Name: "sandboxd", ContainerPort: Port, Protocol: corev1.ProtocolTCP}},
		SecurityContext: containerSecurity(),
		// The sandbox runs when sandboxd takes connections; after that, one that does not for a minute is beyond help.
		StartupProbe:  &corev1.Probe{ProbeHandler: accepts, PeriodSeconds: 1, FailureThreshold: 60, TimeoutSeconds: 1},
		LivenessProbe: &corev1.Probe{ProbeHandler: accepts, PeriodSeconds: 10, FailureThreshold: 6, TimeoutSeconds: 5},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "sandboxd", MountPath: "/lap", ReadOnly: true}, {Name: "state", MountPath: "/state"},
			{Name: "workspace", MountPath: "/workspace"}, {Name: "tmp", MountPath: "/tmp"}, {Name: "data", MountPath: "/data"},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

func podSecurity() *corev1.PodSecurityContext {
	id, onMismatch := int64(uid), corev1.FSGroupChangeOnRootMismatch
	return &corev1.PodSecurityContext{
		RunAsNonRoot: ptr(true), RunAsUser: &id, RunAsGroup: &id, FSGroup: &id, FSGroupChangePolicy: &onMismatch,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

func containerSecurity() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		Privileged: new(bool), AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: ptr(true), RunAsNonRoot: ptr(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
}

func emptyDir(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

func workspace(sessionID string, o Options) corev1.Volume {
	if o.volume == nil {
		return emptyDir("workspace")
	}
	return corev1.Volume{Name: "workspace", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(sessionID)},
	}}
}

func claimName(sessionID string) string { return "workspace-" + sessionID }

// claim is where a session keeps its files between its sandboxes.
func claim(sessionID string, o Options) *corev1.PersistentVolumeClaim {
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: claimName(sessionID), Namespace: o.Namespace,
			Labels: map[string]string{nameLabel: podName, "app.kubernetes.io/managed-by": "lap", sessionLabel: sessionID},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *o.volume}},
		},
	}
	if o.StorageClass != "" {
		pvc.Spec.StorageClassName = &o.StorageClass
	}
	return pvc
}

// sizes fills in what a container may use where the template does not say.
func sizes(c *corev1.Container, cpu, memory, disk, maxCPU, maxMemory, maxDisk string) {
	for _, list := range []struct {
		of               *corev1.ResourceList
		cpu, memory, dsk string
	}{{&c.Resources.Requests, cpu, memory, disk}, {&c.Resources.Limits, maxCPU, maxMemory, maxDisk}} {
		all := corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(list.cpu), corev1.ResourceMemory: resource.MustParse(list.memory),
			corev1.ResourceEphemeralStorage: resource.MustParse(list.dsk),
		}
		maps.Copy(all, *list.of)
		*list.of = all
	}
	for name, limit := range c.Resources.Limits { // a lower limit of the template lowers the default of what is asked for
		if request, ok := c.Resources.Requests[name]; ok && request.Cmp(limit) > 0 {
			c.Resources.Requests[name] = limit
		}
	}
}

// container returns nil if there is none of that name.
func container(list []corev1.Container, name string) *corev1.Container {
	if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

// isOf reports whether a pod was made for a specification.
func isOf(pod *corev1.Pod, spec sandbox.Spec) bool {
	key, err := base64.StdEncoding.DecodeString(pod.Annotations[keyNote])
	return err == nil && ed25519.PublicKey(key).Equal(spec.CallerKey) && pod.Labels[nameLabel] == podName &&
		pod.Labels[sessionLabel] == spec.SessionID && pod.Labels[harnessLabel] == spec.Harness
}

func ptr[T any](v T) *T { return &v }
