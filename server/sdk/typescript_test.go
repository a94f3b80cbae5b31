package sdk_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen"
)

const (
	typescriptDir  = "../../gen/typescript"
	typescriptName = "@litellm-agent-platform/lap"
	maxBundle      = 40 << 10 // what a program may grow by
)

// TestTypeScript packs the TypeScript client, installs it in fresh directories and runs it there.
func TestTypeScript(t *testing.T) {
	t.Parallel()
	modules := nodeModules(t, typescriptDir)
	source := copyOf(t, modules)
	run(t, source, nil, "npm", "run", "--silent", "generate")
	sameFiles(t, filepath.Join(source, "src", "gen"), filepath.Join(typescriptDir, "src", "gen"))
	version := packageVersion(t, typescriptDir)
	if doc, err := gen.GetSpec(); err != nil || doc.Info.Version != version {
		t.Errorf("the package is version %s, the specification is another: %v", version, err)
	}
	run(t, source, nil, "npm", "pack", "--silent")
	tarball := filepath.Join(source, "litellm-agent-platform-lap-"+version+".tgz")
	url := startLive(t).url

	t.Run("quick start", func(t *testing.T) {
		t.Parallel()
		dir := installed(t, tarball)
		write(t, dir, "quickstart.mjs", fenced(t, filepath.Join(typescriptDir, "README.md"), "js"))
		out := run(t, dir, settings(url), "node", "quickstart.mjs")
		if !strings.Contains(out, "You said: Say hello.") || !strings.Contains(out, " turn.completed\n") {
			t.Errorf("it wrote\n%s", out)
		}
	})
	t.Run("faults", func(t *testing.T) {
		t.Parallel()
		dir := installed(t, tarball)
		for _, name := range []string{"ws", "@types"} {
			if err := os.Symlink(filepath.Join(modules, name), filepath.Join(dir, "node_modules", name)); err != nil {
				t.Fatal(err)
			}
		}
		copyFiles(t, "testdata/typescript", dir)
		tsc := filepath.Join(modules, ".bin", "tsc")
		run(t, dir, nil, tsc, "-p", "tsconfig.json")
		run(t, dir, nil, tsc, "-p", "tsconfig.browser.json")
		p := newFaulty(t, url)
		t.Log(run(t, dir, append(settings(url), "FAULTY_URL="+p.url), "node", "check.js"))
		p.check(t)
	})
	t.Run("browser", func(t *testing.T) {
		t.Parallel()
		dir := installed(t, tarball)
		copyFiles(t, "testdata/typescript", dir)
		// A module of Node, which no browser has, is an error here.
		run(t, dir, nil, filepath.Join(modules, ".bin", "esbuild"), "browser.ts", "--bundle", "--minify", "--format=esm", "--platform=browser",
			"--outfile=bundle.js")
		bundle, err := os.ReadFile(filepath.Join(dir, "bundle.js"))
		if err != nil {
			t.Fatal(err)
		}
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		if _, err := w.Write(bundle); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		t.Logf("a program for browsers has %d bytes, %d compressed", len(bundle), zipped.Len())
		if len(bundle) > maxBundle {
			t.Errorf("that is more than %d", maxBundle)
		}
	})
}

// nodeModules installs what a package.json locks and returns the directory, which later runs find again.
func nodeModules(t *testing.T, dir string) string {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(lock)
	home := filepath.Join(cache, "lap-test", "npm", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(home); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
			t.Fatal(err)
		}
		fresh, err := os.MkdirTemp(filepath.Dir(home), "new-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(fresh)
		for _, name := range []string{"package.json", "package-lock.json"} {
			copyFile(t, filepath.Join(dir, name), filepath.Join(fresh, name))
		}
		run(t, fresh, nil, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		if err := os.Rename(fresh, home); err != nil && !errors.Is(err, fs.ErrExist) { // another run may have been faster
			t.Fatal(err)
		}
	}
	return filepath.Join(home, "node_modules")
}

// copyOf returns a copy of the package's directory, at its place in a tree with what else it needs.
func copyOf(t *testing.T, modules string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "gen", "typescript")
	copyFiles(t, typescriptDir, dir)
	copyFiles(t, filepath.Join(typescriptDir, "src"), filepath.Join(dir, "src"))
	for _, name := range []string{"LICENSE", "openapi/openapi.yaml"} {
		copyFile(t, filepath.Join("../..", name), filepath.Join(root, name))
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyFiles copies the files of a directory, not those below it.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			copyFile(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(to), filepath.Base(to), string(b))
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sameFiles wants two directories to have the same files.
func sameFiles(t *testing.T, got, want string) {
	t.Helper()
	files := func(dir string) map[string]string {
		all := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			all[strings.TrimPrefix(path, dir)] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	fresh, committed := files(got), files(want)
	if len(fresh) == 0 || len(fresh) != len(committed) {
		t.Errorf("%d files are generated, %s has %d", len(fresh), want, len(committed))
	}
	for name, text := range fresh {
		if committed[name] != text {
			t.Errorf(`%s is not what openapi/ generates: run "go tool task sdk:ts" and commit`, name)
		}
	}
}

func packageVersion(t *testing.T, dir string) string {
	t.Helper()
	var p struct{ Name, Version string }
	b, err := os.ReadFile(filepath.Join(dir, "package.json"))
	if err != nil || json.Unmarshal(b, &p) != nil || p.Name != typescriptName {
		t.Fatalf("package.json: %v %+v", err, p)
	}
	return p.Version
}

// installed returns a fresh directory in which a packed package is installed, and nothing else.
func installed(t *testing.T, tarball string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "package.json", `{"private":true,"type":"module"}`)
	run(t, dir, nil, "npm", "install", "--no-audit", "--no-fund", "--silent", tarball)
	entries, err := os.ReadDir(filepath.Join(dir, "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != "@litellm-agent-platform" {
			t.Errorf("%s was installed with it", e.Name())
		}
	}
	return dir
}
