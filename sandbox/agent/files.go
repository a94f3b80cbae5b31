package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// Places below a sandbox's root.
const (
	workspaceDir = "workspace"
	repoDir      = "workspace/repo"
	homeDir      = "workspace/home"
	tmpDir       = "tmp"
	dataDir      = "data"
	venvDir      = "workspace/.venv"
	injectedMark = "workspace/.lap-files" // files were injected by an earlier attempt
)

// sandboxPath turns a path of the public API into one below the root.
func sandboxPath(p string) (string, error) {
	segments := strings.Split(p, "/")
	if strings.Contains(p, "\x00") || slices.Contains(segments, "..") {
		return "", fmt.Errorf("file path %q: .. and NUL are not possible", p)
	}
	var clean string
	switch {
	case strings.HasPrefix(p, "~/"):
		clean = path.Join(homeDir, p[2:])
	case strings.HasPrefix(p, "/"):
		clean = path.Join(".", p[1:])
	}
	for _, top := range []string{homeDir, workspaceDir, tmpDir, dataDir} {
		if strings.HasPrefix(clean, top+"/") && !strings.HasSuffix(p, "/") && clean != repoDir && clean != homeDir {
			return clean, nil
		}
	}
	return "", fmt.Errorf("file path %q: it must name a file under ~, /workspace, /tmp or /data", p)
}

func inRepo(p string) bool { return strings.HasPrefix(p, repoDir+"/") }

// tree is the sandbox's file system. Nothing in it, links included, leads out of it.
type tree struct {
	root *os.Root
	kept bool // an earlier attempt has injected files: what the agent made of them stays
}

func openTree(dir string) (*tree, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	for _, d := range []string{homeDir, tmpDir, dataDir} {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make %s: %w", d, err), root.Close())
		}
	}
	_, err = root.Lstat(injectedMark)
	return &tree{root: root, kept: err == nil}, nil
}

func (t *tree) close() error { return t.root.Close() }

// inject writes the files for which want holds.
func (t *tree) inject(files []sandboxd.File, want func(path string) bool) error {
	for _, f := range files {
		p, err := sandboxPath(f.Path)
		if err != nil {
			return err
		}
		if !want(p) {
			continue
		}
		if err := t.put(p, f); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

func (t *tree) put(p string, f sandboxd.File) error {
	if t.kept {
		if _, err := t.root.Lstat(p); err == nil {
			return nil
		}
	}
	mode := fs.FileMode(0o644)
	if f.Mode != nil {
		mode = fs.FileMode(*f.Mode) & 0o777
	}
	if err := t.root.MkdirAll(path.Dir(p), 0o755); err != nil {
		return err
	}
	return t.replace(p, f.Content, mode)
}

// replace puts a whole file in the place of whatever file or link is there.
func (t *tree) replace(p string, content []byte, mode fs.FileMode) error {
	tmp := path.Join(path.Dir(p), ".lap-"+uuid.NewString())
	w, err := t.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	err = errors.Join(err, w.Chmod(mode), w.Close())
	if err == nil {
		err = t.root.Rename(tmp, p)
	}
	if err != nil {
		return errors.Join(err, t.root.Remove(tmp))
	}
	return nil
}

// injected remembers that all files are there.
func (t *tree) injected() error {
	if t.kept {
		return nil
	}
	return t.replace(injectedMark, nil, 0o600)
}

// isEmpty reports whether a directory has no entry or does not exist.
func (t *tree) isEmpty(p string) (bool, error) {
	entries, err := fs.ReadDir(t.root.FS(), p)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}

func (t *tree) path(p string) string { return filepath.Join(t.root.Name(), p) }
