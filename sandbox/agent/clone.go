package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	cloneWithin = 15 * time.Minute
	cloneTemp   = "workspace/.lap-clone-"
	gitUser     = "x-access-token" // any name does; forges look at the password

	// credentialHelper answers git's one question from a pipe; the second time the pipe is empty.
	credentialHelper = `!f() { test "$1" = get && cat <&3; }; f`
)

func allowedProtocol(r sandboxd.Repo, scheme string) bool {
	if len(r.Protocols) == 0 {
		return scheme == "https"
	}
	return slices.Contains(r.Protocols, scheme)
}

// clone checks the repository out unless the workspace has one. It returns what the user should know about it.
func (s *session) clone(ctx context.Context, t *tree, r sandboxd.Repo, env map[string]string) (notes string, err error) {
	if err := t.removeClones(); err != nil {
		return "", fmt.Errorf("remove a clone that was left half done: %w", err)
	}
	empty, err := t.isEmpty(repoDir)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", repoDir, err)
	}
	if !empty {
		return "the repository was kept as the last attempt left it", nil
	}
	work := cloneTemp + uuid.NewString()
	if err := t.root.MkdirAll(path.Join(work, "home"), 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", work, err)
	}
	defer func() { err = errors.Join(err, t.removeClones()) }()
	g := git{repo: r, dir: t.path(work), env: s.toolEnvironment(env, t.path(path.Join(work, "home")))}
	notes, err = g.checkout(ctx)
	if err != nil {
		return "", err
	}
	if err := t.root.RemoveAll(repoDir); err != nil {
		return "", fmt.Errorf("make room for the repository: %w", err)
	}
	if err := t.root.Rename(path.Join(work, "repo"), repoDir); err != nil {
		return "", fmt.Errorf("move the repository to its place: %w", err)
	}
	return notes, nil
}

func (t *tree) removeClones() error {
	d, err := t.root.Open(workspaceDir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, n := range names {
		if p := path.Join(workspaceDir, n); strings.HasPrefix(p, cloneTemp) {
			if err := t.root.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// git runs git for one clone, with no configuration but its own and no code of the repository's.
type git struct {
	repo sandboxd.Repo
	dir  string // an empty directory of its own; the clone is "repo" in it
	env  map[string]string
}

// checkout clones the branch. A repository without any commit is fine whatever the branch; without the branch its HEAD will do
// if nobody asked for one.
func (g git) checkout(ctx context.Context) (notes string, err error) {
	if g.repo.Branch != "" {
		out, err := g.clone(ctx, "--branch", g.repo.Branch)
		if err == nil {
			return "", nil
		}
		if !strings.Contains(out, "Remote branch "+g.repo.Branch+" not found") {
			return "", g.failure(out, err)
		}
	}
	if out, err := g.clone(ctx); err != nil {
		return "", g.failure(out, err)
	}
	head, err := g.local(ctx, "symbolic-ref", "--short", "HEAD")
	if err != nil {
		head = "(detached)"
	}
	if _, err := g.local(ctx, "rev-parse", "--verify", "--quiet", "HEAD"); err != nil {
		return g.unborn(ctx)
	}
	switch {
	case g.repo.Branch == "":
		return "", nil
	case g.repo.BranchSet:
		return "", fmt.Errorf("clone %s: it has no branch %q; its HEAD is %s", g.repo.URL, g.repo.Branch, head)
	}
	return fmt.Sprintf("the repository has no branch %q; its HEAD %s was taken", g.repo.Branch, head), nil
}

// unborn makes the wanted branch the one that the first commit will start.
func (g git) unborn(ctx context.Context) (string, error) {
	if g.repo.Branch != "" {
		if out, err := g.local(ctx, "symbolic-ref", "HEAD", "refs/heads/"+g.repo.Branch); err != nil {
			return "", g.failure(out, err)
		}
	}
	return "the repository is empty", nil
}

func (g git) failure(out string, err error) error {
	if said := lastLines(out, 5); said != "" {
		return fmt.Errorf("clone %s: git: %s (%w)", g.repo.URL, said, err)
	}
	return fmt.Errorf("clone %s: git: %w", g.repo.URL, err)
}

func (g git) clone(ctx context.Context, more ...string) (string, error) {
	argv := append([]string{"git"}, g.settings()...)
	argv = append(argv, "clone", "--quiet", "--depth", "1", "--no-tags", "--no-recurse-submodules", "--template=")
	argv = append(argv, more...)
	argv = append(argv, "--", g.repo.URL, "repo")
	c := command{dir: g.dir, env: g.environ(), within: cloneWithin, argv: argv}
	if g.repo.Token == nil || *g.repo.Token == "" {
		return c.run(ctx)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	_, err = fmt.Fprintf(w, "username=%s\npassword=%s\n", gitUser, *g.repo.Token)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	c.extra = []*os.File{r}
	return c.run(ctx)
}

// settings come before the subcommand, where they hold for this run and are written nowhere.
func (g git) settings() []string {
	set := []string{
		"core.hooksPath=/dev/null", "core.fsmonitor=false", "core.askPass=", "credential.helper=", "protocol.allow=never",
		"submodule.recurse=false", "http.lowSpeedLimit=1", "http.lowSpeedTime=60", "gc.auto=0", "maintenance.auto=false",
	}
	protocols := g.repo.Protocols
	if len(protocols) == 0 {
		protocols = []string{"https"}
	}
	for _, p := range protocols {
		set = append(set, "protocol."+p+".allow=always")
	}
	if u, err := url.Parse(g.repo.URL); err == nil && g.repo.Token != nil && *g.repo.Token != "" {
		set = append(set, "http.followRedirects=false", "credential."+u.Scheme+"://"+u.Host+".helper="+credentialHelper)
	}
	var args []string
	for _, v := range set {
		args = append(args, "-c", v)
	}
	return args
}

func (g git) local(ctx context.Context, argv ...string) (string, error) {
	c := command{dir: g.dir, env: g.environ(), within: time.Minute}
	c.argv = append(append([]string{"git"}, g.settings()...), "-C", "repo")
	c.argv = append(c.argv, argv...)
	out, err := c.run(ctx)
	return strings.TrimSpace(out), err
}

func (g git) environ() []string {
	env := map[string]string{
		"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
		"GIT_CEILING_DIRECTORIES": g.dir,
	}
	for k, v := range g.env {
		env[k] = v
	}
	return flat(env)
}
