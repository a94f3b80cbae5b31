package nodetest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image is what a Dockerfile makes: a file system, and who runs in it.
type Image struct {
	Name  string            // such as docker.io/library/lap:test
	Base  string            // a tar of the file system below; empty: none
	Dirs  []string          // made in it
	Files map[string]string // programs that are copied in, from paths of this machine, by their own
	User  string
	Entry []string
}

var epoch = time.Unix(1700000000, 0).UTC()

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// archive writes images in the form of OCI, each blob once.
type archive struct {
	tar  *tar.Writer
	have map[string]descriptor // by path of a layer that several images have
	seen map[string]bool       // digests
}

// writeImages writes an archive that containerd imports.
func writeImages(path string, images []Image) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriterSize(f, 1<<20)
	a := archive{tar: tar.NewWriter(buf), have: map[string]descriptor{}, seen: map[string]bool{}}
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	var manifests []descriptor
	for _, image := range images {
		d, err := a.image(image, filepath.Dir(path))
		if err != nil {
			return fmt.Errorf("%s: %w", image.Name, err)
		}
		manifests = append(manifests, d)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
	if err != nil {
		return err
	}
	return errors.Join(a.file("index.json", index, 0o644), a.tar.Close(), buf.Flush())
}

func (a *archive) image(i Image, dir string) (descriptor, error) {
	var layers []descriptor
	if i.Base != "" {
		d, err := a.layer(i.Base)
		if err != nil {
			return d, err
		}
		layers = append(layers, d)
	}
	own, err := ownLayer(i, dir)
	if err != nil {
		return descriptor{}, err
	}
	d, err := a.layer(own)
	if err = errors.Join(err, os.Remove(own)); err != nil {
		return d, err
	}
	layers = append(layers, d)
	var diffs []string
	for _, l := range layers {
		diffs = append(diffs, l.Digest)
	}
	config, err := a.blob("application/vnd.oci.image.config.v1+json", map[string]any{
		"created": epoch, "architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entry, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, "User": i.User},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return config, err
	}
	manifest, err := a.blob("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers,
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.Name}
	manifest.Platform = map[string]string{"architecture": runtime.GOARCH, "os": "linux"}
	return manifest, err
}

// ownLayer writes what an image has above its base.
func ownLayer(i Image, dir string) (path string, err error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriterSize(f, 1<<20)
	a := archive{tar: tar.NewWriter(buf)}
	for _, d := range i.Dirs {
		if err := a.tar.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch}); err != nil {
			return "", err
		}
	}
	var names []string
	for name := range i.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := a.copy(strings.TrimPrefix(name, "/"), i.Files[name], 0o755); err != nil {
			return "", err
		}
	}
	return f.Name(), errors.Join(a.tar.Close(), buf.Flush())
}

func (a *archive) layer(path string) (descriptor, error) {
	if d, ok := a.have[path]; ok {
		return d, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return descriptor{}, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: fmt.Sprintf("sha256:%x", sum.Sum(nil)), Size: size}
	a.have[path] = d
	if a.seen[d.Digest] {
		return d, nil
	}
	a.seen[d.Digest] = true
	return d, a.copy(blobPath(d.Digest), path, 0o644)
}

func (a *archive) blob(kind string, of any) (descriptor, error) {
	text, err := json.Marshal(of)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: kind, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(text)), Size: int64(len(text))}
	if a.seen[d.Digest] {
		return d, nil
	}
	a.seen[d.Digest] = true
	return d, a.file(blobPath(d.Digest), text, 0o644)
}

func blobPath(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func (a *archive) file(name string, text []byte, mode int64) error {
	return a.entry(name, bytes.NewReader(text), int64(len(text)), mode)
}

func (a *archive) copy(name, path string, mode int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.entry(name, f, info.Size(), mode)
}

func (a *archive) entry(name string, r io.Reader, size, mode int64) error {
	if err := a.tar.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: size, ModTime: epoch}); err != nil {
		return err
	}
	_, err := io.Copy(a.tar, r)
	return err
}
