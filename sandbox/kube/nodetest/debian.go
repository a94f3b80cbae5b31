package nodetest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var installs = regexp.MustCompile(`apt-get install -y --no-install-recommends ([a-z0-9. +-]+)`)

// Debian writes the tar of a file system with the packages that a Dockerfile installs and all that they depend on, as this machine,
// a Debian too, has them installed.
func Debian(path, dockerfile string) error {
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		return err
	}
	m := installs.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("%s installs no packages", dockerfile)
	}
	names, err := closure(strings.Fields(string(m[1])))
	if err != nil {
		return err
	}
	paths, err := filesOf(names)
	if err != nil {
		return err
	}
	return writeTree(path, paths)
}

// closure is packages, those that every Debian has, and what they depend on; of alternatives, those that are installed.
func closure(names []string) ([]string, error) {
	out, err := exec.Command("dpkg-query", "-W", "-f", "${binary:Package}\t${Package}\t${Essential}\t${Provides}\t${Pre-Depends}, ${Depends}\n").Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-query: %w", err)
	}
	type pkg struct{ binary, depends string }
	have := map[string]pkg{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		p := pkg{f[0], f[4]}
		have[f[1]] = p
		for _, virtual := range relations(f[3]) {
			if _, ok := have[virtual]; !ok {
				have[virtual] = p
			}
		}
		if f[2] == "yes" {
			names = append(names, f[1])
		}
	}
	var found []string
	for i := 0; i < len(names); i++ {
		p, ok := have[names[i]]
		if !ok {
			return nil, fmt.Errorf("package %s is not installed; %q installs it", names[i], Command)
		}
		if slices.Contains(found, p.binary) {
			continue
		}
		found = append(found, p.binary)
		for _, dependency := range relations(p.depends) {
			if _, ok := have[dependency]; ok {
				names = append(names, dependency)
			}
		}
	}
	return found, nil
}

// relations are the names in a field such as "a (>= 1), b | c:any".
func relations(field string) (names []string) {
	for _, one := range strings.FieldsFunc(field, func(r rune) bool { return r == ',' || r == '|' }) {
		name, _, _ := strings.Cut(strings.TrimSpace(one), " ")
		name, _, _ = strings.Cut(name, ":")
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// made are files that packages make when they are installed.
var made = []string{"/etc/alternatives", "/etc/ssl/certs", "/etc/ld.so.cache", "/etc/passwd", "/etc/group", "/tmp", "/run", "/proc", "/sys", "/dev"}

// filesOf lists the paths of packages, each once, parents first, where links of directories lead.
func filesOf(packages []string) ([]string, error) {
	paths := map[string]bool{"/bin": true, "/sbin": true, "/lib": true, "/lib64": true}
	for _, name := range packages {
		text, err := os.ReadFile("/var/lib/dpkg/info/" + name + ".list")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			path := strings.TrimSuffix(line, "\n")
			if path == "/." || strings.HasPrefix(path, "/usr/share/doc/") || strings.HasPrefix(path, "/usr/share/man/") || strings.HasPrefix(path, "/usr/share/locale/") {
				continue
			}
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			if err != nil {
				continue // excluded from this machine
			}
			paths[filepath.Join(dir, filepath.Base(path))] = true
		}
	}
	for _, root := range made {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			paths[path] = true
			if d.IsDir() && !strings.HasPrefix(root, "/etc/") {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var list []string
	for path := range paths {
		list = append(list, path)
	}
	slices.Sort(list)
	return list, nil
}

func writeTree(path string, paths []string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriterSize(f, 1<<20)
	a := archive{tar: tar.NewWriter(buf)}
	for _, p := range paths {
		if err := a.add(p); err != nil {
			return err
		}
	}
	return errors.Join(a.tar.Close(), buf.Flush())
}

// add adds a file, link or directory of this machine, if it is there.
func (a *archive) add(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: int64(info.Mode().Perm()), ModTime: epoch}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		if info.Mode()&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return a.entry(h.Name, bytes.NewReader(text), int64(len(text)), h.Mode)
	default:
		return nil
	}
	return a.tar.WriteHeader(h)
}
