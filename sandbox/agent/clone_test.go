package agent_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=trunk"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// origin makes a bare repository with the branches trunk, its HEAD, and side, and returns its path.
func origin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	work, bare := filepath.Join(dir, "work"), filepath.Join(dir, "x.git")
	git(t, dir, "init", "-q", work)
	if err := os.WriteFile(filepath.Join(work, "README"), []byte("trunk\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, work, "add", ".")
	git(t, work, "commit", "-qm", "one")
	git(t, work, "checkout", "-qb", "side")
	git(t, work, "commit", "-qm", "two", "--allow-empty")
	git(t, work, "checkout", "-q", "trunk")
	git(t, dir, "clone", "-q", "--bare", work, bare)
	git(t, bare, "config", "http.uploadpack", "true")
	return bare
}

func repo(url, branch string, set bool, more ...func(*sandboxd.Repo)) func(*sandboxd.SessionConfig) {
	return func(c *sandboxd.SessionConfig) {
		c.Repo = &sandboxd.Repo{URL: url, Branch: branch, BranchSet: set, Protocols: []string{"file", "http"}}
		for _, f := range more {
			f(c.Repo)
		}
	}
}

func details(t *testing.T, all []sandboxd.Record, phase string) string {
	t.Helper()
	var list []string
	for _, r := range all {
		if r.Type == "phase" && field(t, r, "phase") == phase && field(t, r, "detail") != "" {
			list = append(list, field(t, r, "detail"))
		}
	}
	return strings.Join(list, "; ")
}

func TestTheRepositoryIsClonedBeforeFilesAreWrittenIntoIt(t *testing.T) {
	t.Parallel()
	bare := origin(t)
	b := boot(t)
	all := b.ready(repo("file://"+bare, "side", true), files(
		sandboxd.File{Path: "/workspace/repo/README", Content: []byte("given")},
		sandboxd.File{Path: "/workspace/repo/new/x", Content: []byte("new")},
	))
	dir := filepath.Join(b.c.Root, "workspace/repo")
	if got := git(t, dir, "rev-parse", "--abbrev-ref", "HEAD"); got != "side" {
		t.Errorf("branch %q", got)
	}
	if got := git(t, dir, "rev-list", "--count", "HEAD"); got != "1" {
		t.Errorf("%s commits", got)
	}
	if b.read("workspace/repo/README") != "given" || b.read("workspace/repo/new/x") != "new" {
		t.Error("files were not written over the checkout")
	}
	if got := details(t, all, "cloning_repo"); got != "file://"+bare {
		t.Errorf("detail %q", got)
	}
	left, err := filepath.Glob(filepath.Join(b.c.Root, "workspace/.lap-*"))
	if err != nil || len(left) != 1 { // the mark of the files
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestAKeptWorkspaceIsNotClonedAgain(t *testing.T) {
	t.Parallel()
	bare := origin(t)
	first := boot(t)
	first.ready(repo("file://"+bare, "side", true))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(first.c.Root, "workspace/repo/work"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(first.c.Root, "workspace/.lap-clone-old/repo"), 0o700); err != nil {
		t.Fatal(err)
	}
	second := boot(t, func(b *box) { b.c.Root = first.c.Root })
	all := second.ready(repo("file:///nowhere", "side", true))
	if second.read("workspace/repo/work") != "mine" {
		t.Error("work was lost")
	}
	if got := details(t, all, "ready"); !strings.Contains(got, "kept") {
		t.Errorf("detail %q", got)
	}
	if _, err := os.Stat(filepath.Join(first.c.Root, "workspace/.lap-clone-old")); err == nil {
		t.Error("a half clone is left")
	}
}

func TestAMissingBranchIsAnErrorOnlyIfItWasAskedFor(t *testing.T) {
	t.Parallel()
	bare := origin(t)
	t.Run("asked for", func(t *testing.T) {
		t.Parallel()
		reason := boot(t).failure(repo("file://"+bare, "main", true))
		if !strings.Contains(reason, `no branch "main"; its HEAD is trunk`) {
			t.Errorf("reason %q", reason)
		}
	})
	t.Run("by default", func(t *testing.T) {
		t.Parallel()
		b := boot(t)
		all := b.ready(repo("file://"+bare, "main", false))
		if got := details(t, all, "ready"); got != `the repository has no branch "main"; its HEAD trunk was taken` {
			t.Errorf("detail %q", got)
		}
		if b.read("workspace/repo/README") != "trunk\n" {
			t.Error("nothing is checked out")
		}
	})
}

func TestAnEmptyRepositoryIsFine(t *testing.T) {
	t.Parallel()
	bare := filepath.Join(t.TempDir(), "x.git")
	git(t, "/", "init", "-q", "--bare", bare)
	for _, set := range []bool{true, false} {
		b := boot(t)
		all := b.ready(repo("file://"+bare, "work", set))
		if got := details(t, all, "ready"); got != "the repository is empty" {
			t.Errorf("detail %q", got)
		}
		if got := git(t, filepath.Join(b.c.Root, "workspace/repo"), "symbolic-ref", "HEAD"); got != "refs/heads/work" {
			t.Errorf("HEAD is %s", got)
		}
	}
}

func TestAFailedCloneQuotesGit(t *testing.T) {
	t.Parallel()
	b := boot(t)
	reason := b.failure(repo("file:///no/such/repository", "main", false))
	if !strings.HasPrefix(reason, "clone file:///no/such/repository: git: ") || !strings.Contains(reason, "does not appear to be a git repository") &&
		!strings.Contains(reason, "does not exist") {
		t.Errorf("reason %q", reason)
	}
	left, err := filepath.Glob(filepath.Join(b.c.Root, "workspace/.lap-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

const cloneToken = "ghp_canary0123456789"

// forge serves a repository over git's HTTP protocol to those who know the token.
func forge(t *testing.T, bare string) *httptest.Server {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	h := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(bare), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=x"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != cloneToken {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func withToken(token string) func(*sandboxd.Repo) {
	return func(r *sandboxd.Repo) { r.Token = &token }
}

func TestTheCloneTokenReachesGitAndNothingElse(t *testing.T) {
	t.Parallel()
	srv := forge(t, origin(t))
	b := newBox(t)
	// A git in front of the real one notes what it, and every program that it starts, could show to others.
	bin, notes := t.TempDir(), filepath.Join(t.TempDir(), "notes")
	path, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	shim := fmt.Sprintf("#!/bin/sh\n{ echo \"$@\"; env; } >> %s\nexec %s \"$@\"\n", notes, path)
	syscall.ForkLock.RLock() // a child forked meanwhile would hold the program open, and so busy
	err = os.WriteFile(filepath.Join(bin, "git"), []byte(shim), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	p := b.spawn("PATH=" + bin + ":" + os.Getenv("PATH"))
	b.ready(repo(srv.URL+"/x.git", "side", true, withToken(cloneToken)))
	b.read("workspace/repo/README")
	noted, err := os.ReadFile(notes)
	if err != nil || !strings.Contains(string(noted), "clone") {
		t.Fatalf("git was not noted: %v", err)
	}
	if strings.Contains(string(noted), cloneToken) {
		t.Error("the token is in arguments or environment of git")
	}
	if found := grep(t, b.c.Dir, cloneToken); len(found) > 0 {
		t.Errorf("the token is in %v", found)
	}
	if env := b.harnessEnv(); strings.Contains(strings.Join(env, "\n"), cloneToken) {
		t.Error("the token is in the harness's environment")
	}
	switch found, err := inMemory(p.cmd.Process.Pid, cloneToken); {
	case errors.Is(err, os.ErrPermission) && os.Getuid() != 0: // it is protected, and only root may look
	case err != nil || found:
		t.Errorf("the token is in sandboxd's memory: %v %v", found, err)
	default:
		if found, err := inMemory(p.cmd.Process.Pid, "sk-gateway-key"); !found {
			t.Errorf("not even what is there was found in sandboxd's memory: %v", err)
		}
	}
	p.terminate()
}

// inMemory reports whether a process holds s, as far as this user may read it at all.
func inMemory(pid int, s string) (bool, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return false, err
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil {
			return false, err
		}
		if strings.HasPrefix(perm, "rw") {
			b := make([]byte, to-from)
			n, _ := mem.ReadAt(b, int64(from)) // some ranges cannot be read
			if strings.Contains(string(b[:n]), s) {
				return true, nil
			}
		}
	}
	return false, nil
}

// grep returns the files below dir that hold s.
func grep(t *testing.T, dir, s string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), s) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestACloneThatHangsEndsWithSandboxd(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	defer srv.Close()
	defer close(release)
	b := boot(t)
	b.bind(repo(srv.URL+"/x.git", "main", false))
	<-asked
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if left := below(t, b.c.SandboxID); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if left, err := filepath.Glob(filepath.Join(b.c.Root, "workspace/.lap-clone-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestARefusedTokenIsNotInTheReason(t *testing.T) {
	t.Parallel()
	srv := forge(t, origin(t))
	reason := boot(t).failure(repo(srv.URL+"/x.git", "side", true, withToken("wrong-token-value")))
	if !strings.Contains(reason, "git: ") || strings.Contains(reason, "wrong-token-value") {
		t.Errorf("reason %q", reason)
	}
}

func TestAPrivateRepositoryWithoutATokenFailsAtOnce(t *testing.T) {
	t.Parallel()
	srv := forge(t, origin(t))
	reason := boot(t).failure(repo(srv.URL+"/x.git", "side", true))
	if !strings.Contains(reason, "could not read Username") {
		t.Errorf("reason %q", reason)
	}
}

func TestACloneWithATokenFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.String() }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL+"/x.git/info/refs?service=git-upload-pack", http.StatusFound))
	defer first.Close()
	boot(t).failure(repo(first.URL+"/x.git", "side", true, withToken(cloneToken)))
	close(asked)
	for a := range asked {
		t.Errorf("another host was asked for %s", a)
	}
}

func TestACheckoutRunsNoCodeOfTheWorkspaceOrTheHost(t *testing.T) {
	t.Parallel()
	bare := origin(t)
	b := newBox(t)
	ran := filepath.Join(b.c.Dir, "ran")
	home := filepath.Join(b.c.Root, "workspace/home")
	hooks := filepath.Join(home, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hooks, "post-checkout"), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := "[core]\n\thooksPath = " + hooks + "\n[init]\n\ttemplateDir = " + home + "\n"
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.ready(repo("file://"+bare, "side", true))
	if _, err := os.Stat(ran); err == nil {
		t.Error("a hook ran")
	}
	if _, err := os.Stat(filepath.Join(b.c.Root, "workspace/repo/.git/hooks/post-checkout")); err == nil {
		t.Error("a hook was installed")
	}
}
