package kubetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

func random(from, to byte) byte { return from + byte(rand.IntN(int(to-from)+1)) }

// podWorker runs one pod. run, one goroutine, owns it; the rest may be called by others.
type podWorker struct {
	k      *Kubelet
	pod    *corev1.Pod
	dir    string
	ip     string
	ending chan struct{} // closed when the pod is to end
	once   sync.Once
	exited chan struct{} // closed when its first process has ended

	mu      sync.Mutex // guards main
	main    *exec.Cmd
	started []*exec.Cmd
}

func newPodWorker(k *Kubelet, pod *corev1.Pod) *podWorker {
	return &podWorker{
		k: k, pod: pod, dir: filepath.Join(k.dir, "pods", string(pod.UID)), ending: make(chan struct{}), exited: make(chan struct{}),
	}
}

func (w *podWorker) end() { w.once.Do(func() { close(w.ending) }) }

func (w *podWorker) run() {
	err := w.live()
	w.sweep()
	if claimOf(w.pod) == "" {
		err = errors.Join(err, os.RemoveAll(w.k.volume(w.emptyWorkspace())))
	}
	if err != nil && w.k.ctx.Err() == nil && !apierrors.IsNotFound(err) {
		w.k.log("kubelet: pod %s: %v", w.pod.Name, err)
	}
	select {
	case <-w.ending:
	case <-w.k.ctx.Done():
		return
	}
	err = w.k.api.CoreV1().Pods(w.pod.Namespace).Delete(w.k.ctx, w.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &w.pod.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && w.k.ctx.Err() == nil {
		w.k.log("kubelet: remove pod %s: %v", w.pod.Name, err)
	}
}

// live takes a pod from its creation to the end of its first process.
func (w *podWorker) live() error {
	if w.pod.Spec.NodeName == "" {
		err := w.k.api.CoreV1().Pods(w.pod.Namespace).Bind(w.k.ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: w.pod.Name, UID: w.pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: w.k.node},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	var err error
	if w.ip, err = address(w.port()); err != nil {
		return err
	}
	if err := w.write(waiting("PodInitializing"), corev1.PodPending); err != nil {
		return err
	}
	if code, said, err := w.install(); err != nil || code != 0 {
		return errors.Join(err, w.write(func(s *corev1.PodStatus, pod *corev1.Pod) {
			s.InitContainerStatuses = statuses(pod.Spec.InitContainers, corev1.ContainerState{Terminated: ended(code, said)}, false)
			s.ContainerStatuses = statuses(pod.Spec.Containers, waitingFor("PodInitializing"), false)
		}, corev1.PodFailed))
	}
	if err := w.start(); err != nil {
		return err
	}
	if err := w.write(running(false), corev1.PodRunning); err != nil {
		return err
	}
	return w.serve()
}

// serve waits until the pod answers, and then for its end.
func (w *podWorker) serve() error {
	probe := time.NewTicker(10 * time.Millisecond)
	defer probe.Stop()
	ticks := probe.C
	for {
		select {
		case <-w.k.ctx.Done():
			return w.stop(0)
		case <-w.ending:
			return w.stop(time.Duration(*w.pod.Spec.TerminationGracePeriodSeconds) * time.Second)
		case <-w.exited:
			w.sweep()
			return w.writeEnd()
		case <-ticks:
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(w.ip, strconv.Itoa(int(w.port()))), time.Second)
			if err != nil {
				continue
			}
			_ = conn.Close()
			ticks = nil
			if err := w.write(running(true), corev1.PodRunning); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
}

func (w *podWorker) port() int32 { return w.pod.Spec.Containers[0].Ports[0].ContainerPort }

func (w *podWorker) logFile() string { return filepath.Join(w.dir, "log") }

// install is the init container.
func (w *podWorker) install() (code int, said string, err error) {
	lap := filepath.Join(w.dir, "lap")
	if err := errors.Join(os.MkdirAll(lap, 0o755), os.MkdirAll(filepath.Join(w.dir, "state"), 0o755)); err != nil {
		return 0, "", err
	}
	args := append([]string{}, w.pod.Spec.InitContainers[0].Command[1:]...)
	for i := range args {
		if args[i] == "/lap" {
			args[i] = lap
		}
	}
	out, err := exec.CommandContext(w.k.ctx, w.k.sandboxd, args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), string(out), nil
	}
	if err != nil {
		return 0, "", err
	}
	return 0, "", w.place(filepath.Join(lap, "config.json"))
}

// place puts the paths of this machine where those of a container are, and makes what is mounted there.
func (w *podWorker) place(path string) error {
	var c map[string]any
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	root := w.k.volume(w.emptyWorkspace())
	if claim := claimOf(w.pod); claim != "" {
		if _, err := w.k.api.CoreV1().PersistentVolumeClaims(w.pod.Namespace).Get(w.k.ctx, claim, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("mount %s: %w", claim, err)
		}
		root = w.k.volume(claim)
	} else if err := os.RemoveAll(root); err != nil {
		return err
	}
	for _, d := range []string{"workspace/home", "tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	c["listen"], c["root"], c["state_dir"] = fmt.Sprintf("%s:%d", w.ip, w.port()), root, filepath.Join(w.dir, "state", "agent")
	if bin, ok := c["harness_bin"].(string); ok && w.k.o.Programs[bin] != "" {
		c["harness_bin"] = w.k.o.Programs[bin]
	}
	if text, err = json.Marshal(c); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// emptyWorkspace names the workspace of a pod that has no claim. It is the same path for every pod of a session, as in a container,
// and empty for each.
func (w *podWorker) emptyWorkspace() string {
	return "workspace-" + w.pod.Labels["litellm-agent-platform/session"]
}

// start is the harness's container.
func (w *podWorker) start() error {
	out, err := os.OpenFile(w.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(context.Background(), filepath.Join(w.dir, "lap", "sandboxd"), "-config", filepath.Join(w.dir, "lap", "config.json"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Join(w.dir, "state"), out, out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LAP_SANDBOX_ID=" + w.pod.Name}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	w.main = cmd
	w.k.wg.Go(func() {
		defer close(w.exited)
		_ = cmd.Wait()
	})
	return nil
}

func (w *podWorker) spawn(name string, args ...string) error {
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Env = []string{"LAP_SANDBOX_ID=" + w.pod.Name}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	w.started = append(w.started, cmd)
	return nil
}

func (w *podWorker) kill() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.main == nil {
		return os.ErrProcessDone
	}
	return w.main.Process.Kill()
}

// stop ends the first process as the kubelet does, and everything else with it.
func (w *podWorker) stop(grace time.Duration) error {
	if grace > 0 {
		_ = w.main.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-w.exited:
		case <-timer.C:
		}
	}
	_ = w.kill()
	<-w.exited
	return nil
}

// sweep kills what is left in the pod.
func (w *podWorker) sweep() {
	for _, pid := range processes(w.pod.Name) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, cmd := range w.started {
		_ = cmd.Wait()
	}
	w.started = nil
}

// processes lists the living processes that carry the name of a pod.
func processes(pod string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !strings.Contains("\x00"+string(env), "\x00LAP_SANDBOX_ID="+pod+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// write changes the pod's status.
func (w *podWorker) write(change func(*corev1.PodStatus, *corev1.Pod), phase corev1.PodPhase) error {
	pods := w.k.api.CoreV1().Pods(w.pod.Namespace)
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod, err := pods.Get(w.k.ctx, w.pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.UID != w.pod.UID {
			return nil
		}
		pod.Status.Phase, pod.Status.PodIP, pod.Status.HostIP = phase, w.ip, "127.0.0.1"
		pod.Status.PodIPs = []corev1.PodIP{{IP: w.ip}}
		pod.Status.HostIPs = []corev1.HostIP{{IP: "127.0.0.1"}}
		change(&pod.Status, pod)
		_, err = pods.UpdateStatus(w.k.ctx, pod, metav1.UpdateOptions{})
		return err
	})
}

func (w *podWorker) writeEnd() error {
	state := w.main.ProcessState
	code := state.ExitCode()
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	said, phase := "", corev1.PodSucceeded
	if code != 0 {
		phase = corev1.PodFailed
		text, err := os.ReadFile(w.logFile())
		if err != nil {
			return err
		}
		said = string(text[max(0, len(text)-2048):])
	}
	return w.write(func(s *corev1.PodStatus, pod *corev1.Pod) {
		s.InitContainerStatuses = statuses(pod.Spec.InitContainers, corev1.ContainerState{Terminated: ended(0, "")}, false)
		s.ContainerStatuses = statuses(pod.Spec.Containers, corev1.ContainerState{Terminated: ended(code, said)}, false)
	}, phase)
}

func ended(code int, said string) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{ExitCode: int32(code), Reason: "Completed", Message: said}
	if code != 0 {
		t.Reason = "Error"
	}
	return t
}

func waitingFor(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

func waiting(reason string) func(*corev1.PodStatus, *corev1.Pod) {
	return func(s *corev1.PodStatus, pod *corev1.Pod) {
		s.InitContainerStatuses = statuses(pod.Spec.InitContainers, waitingFor(reason), false)
		s.ContainerStatuses = statuses(pod.Spec.Containers, waitingFor(reason), false)
	}
}

func running(started bool) func(*corev1.PodStatus, *corev1.Pod) {
	return func(s *corev1.PodStatus, pod *corev1.Pod) {
		s.InitContainerStatuses = statuses(pod.Spec.InitContainers, corev1.ContainerState{Terminated: ended(0, "")}, false)
		s.ContainerStatuses = statuses(pod.Spec.Containers,
			corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}, started)
	}
}

func statuses(containers []corev1.Container, state corev1.ContainerState, started bool) []corev1.ContainerStatus {
	out := make([]corev1.ContainerStatus, len(containers))
	for i, c := range containers {
		out[i] = corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: state, Ready: started, Started: &started}
	}
	return out
}
