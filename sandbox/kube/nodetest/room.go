// Package nodetest is one real node of Kubernetes for tests: the control plane of kubetest with scheduler and controllers, a kubelet
// with containerd and runc, images made on this machine, kube-proxy and names of services, and kube-router, which enforces network
// policies. All of it, and the test itself, runs in namespaces of its own, without a link to the machine's network: nothing is set
// up on the machine, and the kernel ends everything when the test's process ends, however it does. Only a directory and empty
// cgroups can be left by one that is killed; the next run removes them. It needs root, and what Command installs.
package nodetest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
)

// Command installs what a node needs and runs the tests on it.
const Command = "go tool task test:node"

const (
	roomEnv   = "LAP_TEST_NODE" // the directory of the room that this process is in
	dirPrefix = "lap-node-"
	cgroups   = "/sys/fs/cgroup"
	sweepFor  = 10 * time.Second // a killed process takes a moment to leave its cgroup
)

// Main is the Run of a testing.M on a node. Images is called on the machine, where there is a network, and Use on the node.
type Main struct {
	M      interface{ Run() int }
	Images func(dir string) ([]Image, error) // dir is kept until the end of the run
	Use    func(*Node)
}

// Run runs the tests in this process, started once more, and removes what is left of it.
func (m Main) Run() int {
	if dir := os.Getenv(roomEnv); dir != "" {
		return m.inside(dir)
	}
	code, err := m.outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func (m Main) outside() (code int, err error) {
	if err := missing(); err != nil {
		return 0, err
	}
	sweep()
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return 0, err
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, remove(dir), lock.Close()) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return 0, err
	}
	if err := m.prepare(dir); err != nil {
		return 0, err
	}
	return enter(dir)
}

// missing names what the machine lacks.
func missing() error {
	if os.Getuid() != 0 {
		return errors.New("a node needs root")
	}
	var names []string
	for _, name := range []string{"containerd", "ctr", "runc", "iptables", "ipset", "ip", "dpkg-query", "/usr/lib/cni/bridge"} {
		if _, err := exec.LookPath(name); err != nil {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("a node needs %s; %q installs them", strings.Join(names, ", "), Command)
	}
	return nil
}

func (m Main) prepare(dir string) error {
	if _, err := programs(); err != nil {
		return err
	}
	images, err := m.Images(dir)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	return writeImages(filepath.Join(dir, "images.tar"), images)
}

// programs builds what is missing, and returns the directories of the control plane and kubelet, of kube-router and of kube-proxy.
func programs() (dirs [3]string, err error) {
	if dirs[0], err = kubetest.Programs("kubelet", "kube-scheduler", "kube-controller-manager"); err != nil {
		return dirs, err
	}
	_, file, _, _ := runtime.Caller(0)
	for i, program := range []struct{ pins, name, pkg string }{
		{"router", "kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
		{"proxy", "kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"},
	} {
		pins := filepath.Join(filepath.Dir(file), program.pins)
		if dirs[1+i], err = kubetest.Built(pins, map[string]string{program.name: program.pkg}); err != nil {
			return dirs, err
		}
	}
	return dirs, nil
}

// enter runs this program as the first process of a room. It ends with this one, and with it everything that it started.
func enter(dir string) (int, error) {
	for _, group := range groups(filepath.Base(dir)) {
		if err := os.Mkdir(group, 0o755); err != nil {
			return 0, err
		}
	}
	runtime.LockOSThread() // the kernel ends the child with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roomEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Pdeathsig: unix.SIGKILL,
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// groups are the paths of a cgroup in every hierarchy of this machine.
func groups(name string) []string {
	if _, err := os.Stat(filepath.Join(cgroups, "cgroup.controllers")); err == nil {
		return []string{filepath.Join(cgroups, name)}
	}
	var out []string
	trees, _ := filepath.Glob(filepath.Join(cgroups, "*", "cgroup.procs"))
	for _, tree := range trees {
		out = append(out, filepath.Join(filepath.Dir(tree), name))
	}
	return out
}

// remove removes what a room has on the machine.
func remove(dir string) error {
	var errs []error
	deadline := time.Now().Add(sweepFor)
	for _, group := range groups(filepath.Base(dir)) {
		for {
			err := removeGroup(group)
			if err == nil || time.Now().After(deadline) {
				errs = append(errs, err)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// removeGroup removes a cgroup and those below it.
func removeGroup(path string) error {
	var list []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			list = append(list, p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for i := len(list) - 1; i >= 0 && err == nil; i-- {
		if err = os.Remove(list[i]); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return err
}

// sweep removes rooms whose runs were killed.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue // it is being made or removed
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := remove(dir); err != nil {
				fmt.Fprintf(os.Stderr, "what an earlier run left: %v\n", err)
			}
		}
		_ = lock.Close()
	}
}

func (m Main) inside(dir string) int {
	if err := furnish(dir); err != nil {
		fmt.Fprintf(os.Stderr, "make room for a node: %v\n", err)
		return 1
	}
	n, err := start(dir)
	if err != nil {
		fmt.Fprintf(os.Stderr, "start a node: %v\n", err)
		n.showLogs(os.Stderr)
		return 1
	}
	m.Use(n)
	code := m.M.Run()
	if code != 0 {
		n.showLogs(os.Stderr)
	}
	return code // the kernel ends the rest
}

// showLogs writes the ends of what the parts of the node said.
func (n *Node) showLogs(w io.Writer) {
	logs, _ := filepath.Glob(filepath.Join(n.dir, "*.log"))
	for _, path := range logs {
		if text, err := os.ReadFile(path); err == nil {
			fmt.Fprintf(w, "the end of %s:\n%s\n", filepath.Base(path), text[max(0, len(text)-3000):])
		}
	}
}
