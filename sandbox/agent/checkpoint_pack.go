package agent

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

const (
	maxState      = 256 << 20 // bytes, unpacked
	maxStateFiles = 10_000
	maxStateDepth = 32
	packWindow    = 1 << 20 // bytes that zstd looks back, and is allowed to
)

// checkpointChild is the whole of a child: pack or unpack, a directory, the name of a database in it or nothing, and a file.
func checkpointChild(args []string, out io.Writer) int {
	var said childSaid
	err := fmt.Errorf("%d arguments", len(args))
	if len(args) == 4 {
		state := harness.State{Dir: args[1], Database: args[2]}
		switch args[0] {
		case "pack":
			said, err = pack(state, args[3])
		case "unpack":
			err = unpack(state, args[3])
		default:
			err = fmt.Errorf("what is %q?", args[0])
		}
	}
	if errors.Is(err, errTooLarge) && args[0] == "pack" {
		said, err = childSaid{TooLarge: true}, nil
	}
	if err != nil {
		said.Error = err.Error()
	}
	if json.NewEncoder(out).Encode(said) != nil || err != nil {
		return 1
	}
	return 0
}

type stateFile struct {
	name string
	info fs.FileInfo
}

// stateFiles lists the regular files below a directory, by name. Links are no state.
func stateFiles(dir string) (files []stateFile, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name, relErr := filepath.Rel(dir, p)
		if files = append(files, stateFile{name, info}); len(files) > maxStateFiles {
			return fmt.Errorf("%w: more than %d files", errTooLarge, maxStateFiles)
		}
		return errors.Join(err, relErr)
	})
	return files, err
}

// pack writes a state to a file: a tar in one stream of zstd, which ends with a checksum.
func pack(state harness.State, to string) (said childSaid, err error) {
	root, err := os.OpenRoot(state.Dir)
	if err != nil {
		return said, err
	}
	defer root.Close()
	if state.Database != "" {
		return packFile(to, func(w *tar.Writer) error { return addDatabase(w, root, state.Database, to) })
	}
	files, err := stateFiles(state.Dir)
	if err != nil {
		return said, err
	}
	return packFile(to, func(w *tar.Writer) error {
		var total int64
		for _, file := range files {
			f, err := root.Open(file.name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := errors.Join(addFile(w, file.name, f, &total), f.Close()); err != nil {
				return fmt.Errorf("pack %s: %w", file.name, err)
			}
		}
		return nil
	})
}

// addDatabase adds an SQLite database that is in use as it is at one moment: the file, and what is written ahead of it. Both are copied
// while nobody can write, which is short; a harness that wants to waits that long. SQLite itself, which could as well, would cost each
// sandboxd 2 MB that does nothing but this.
func addDatabase(w *tar.Writer, root *os.Root, name, beside string) (err error) {
	var copied []*os.File
	defer func() {
		for _, f := range copied {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	err = whileQuiet(root, name, func() error {
		for i, end := range databaseFiles[:2] {
			f, err := copyFile(root, name+end, beside+end)
			if errors.Is(err, fs.ErrNotExist) && i > 0 {
				continue
			}
			if err != nil {
				return err
			}
			copied = append(copied, f)
		}
		return nil
	})
	total := int64(0)
	for i, f := range copied {
		if err == nil {
			err = addFile(w, name+databaseFiles[i], f, &total)
		}
	}
	return err
}

// copyFile returns a copy to be read from its start.
func copyFile(root *os.Root, name, to string) (*os.File, error) {
	from, err := openFile(root, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	f, err := os.OpenFile(to+".copy", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(from, maxState+1))
	if n > maxState {
		err = errTooLarge
	}
	if _, seekErr := f.Seek(0, io.SeekStart); err == nil {
		err = seekErr
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// openFile opens a regular file, and waits for no other end if it is something else.
func openFile(root *os.Root, name string, flag int) (*os.File, error) {
	f, err := root.OpenFile(name, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, f.Close(), fmt.Errorf("%s is no file", name))
	}
	return f, nil
}

// The locks of SQLite: bytes of its files.
var (
	readersLock = unix.Flock_t{Type: unix.F_RDLCK, Start: 0x40000002, Len: 510} // of the database, against writers without a log
	writersLock = unix.Flock_t{Type: unix.F_WRLCK, Start: 120, Len: 2}          // of -shm, against writers and what empties the log
)

const quietWithin = 10 * time.Second // for a harness to write what it is writing

// whileQuiet runs fn while nobody writes to a database.
func whileQuiet(root *os.Root, name string, fn func() error) error {
	db, err := openFile(root, name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := lock(db, readersLock); err != nil {
		return err
	}
	shm, err := openFile(root, name+databaseFiles[2], os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) { // nobody has it open
		return fn()
	}
	if err != nil {
		return err
	}
	defer shm.Close()
	if err := lock(shm, writersLock); err != nil {
		return err
	}
	return fn()
}

// lock holds until the file is closed.
func lock(f *os.File, l unix.Flock_t) error {
	for deadline := time.Now().Add(quietWithin); ; time.Sleep(5 * time.Millisecond) {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
		if err == nil || time.Now().After(deadline) || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return err
		}
	}
}

// packFile writes what fill adds.
func packFile(to string, fill func(*tar.Writer) error) (said childSaid, err error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return said, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := &measured{w: f, hash: sha256.New()}
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return said, err
	}
	w := tar.NewWriter(z)
	if err := errors.Join(fill(w), w.Close(), z.Close()); err != nil {
		if out.full {
			err = errTooLarge
		}
		return said, err
	}
	return childSaid{Size: out.n, Sum: hex.EncodeToString(out.hash.Sum(nil))}, nil
}

// measured counts and hashes what it passes on, up to the limit.
type measured struct {
	w    io.Writer
	hash hash.Hash
	n    int64
	full bool
}

func (m *measured) Write(b []byte) (int, error) {
	if m.n += int64(len(b)); m.n > maxCheckpoint {
		m.full = true
		return 0, errTooLarge
	}
	m.hash.Write(b)
	return m.w.Write(b)
}

// addFile adds a file as it is now, which may grow meanwhile. A log is cut behind its last whole line.
func addFile(w *tar.Writer, name string, f *os.File, total *int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	size := info.Size()
	if strings.HasSuffix(name, ".jsonl") {
		if size, err = wholeLines(f, size); err != nil {
			return err
		}
	}
	if *total += size; *total > maxState {
		return errTooLarge
	}
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Size: size, Mode: 0o600, ModTime: info.ModTime(), Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	if _, err := io.CopyN(w, f, size); err != nil {
		return fmt.Errorf("it became shorter meanwhile: %w", err)
	}
	return nil
}

// wholeLines is how much of the first size bytes of a file is lines with an end.
func wholeLines(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size > 0 {
		from := max(0, size-int64(len(buf)))
		n, err := f.ReadAt(buf[:size-from], from)
		if err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		size = from
	}
	return 0, nil
}

// unpack puts a state where its harness looks for it, whole or not at all. What it is made from may be anything.
func unpack(state harness.State, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(packWindow), zstd.WithDecoderMaxMemory(maxState+maxStateFiles*4096))
	if err != nil {
		return err
	}
	defer z.Close()
	if err := os.MkdirAll(state.Dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(state.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	staging := ".lap-" + uuid.NewString()
	if err := root.Mkdir(staging, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(staging)) }()
	names, err := unpackTo(root, staging, state.Database, z)
	if err != nil {
		return err
	}
	if state.Database != "" {
		for _, end := range databaseFiles {
			if err := root.RemoveAll(state.Database + end); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if err := root.Rename(path.Join(staging, name), name); err != nil {
			return err
		}
	}
	return nil
}

func unpackTo(root *os.Root, staging, database string, z io.Reader) (names []string, err error) {
	in := &rationed{r: z, left: maxState + maxStateFiles*4096} // with the headers
	r := tar.NewReader(in)
	room := int64(maxState)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, in) // to the checksum
			if err == nil && len(names) == 0 {
				err = errors.New("nothing is in it")
			}
			return names, err
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		switch {
		case h.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("entry %.100q is no file", h.Name)
		case !filepath.IsLocal(h.Name) || name != h.Name || strings.ContainsAny(name, "\\\x00") || strings.Count(name, "/") >= maxStateDepth,
			database != "" && name != database && name != database+databaseFiles[1]:
			return nil, fmt.Errorf("entry %.100q has no place", h.Name)
		case len(names) == maxStateFiles:
			return nil, fmt.Errorf("%w: more than %d entries", errTooLarge, maxStateFiles)
		}
		if room -= h.Size; h.Size < 0 || room < 0 {
			return nil, fmt.Errorf("%w: more than %d MiB", errTooLarge, maxState>>20)
		}
		if err := unpackFile(root, path.Join(staging, name), r, h.ModTime); err != nil {
			return nil, fmt.Errorf("unpack %.100q: %w", h.Name, err)
		}
		names = append(names, name)
	}
}

func unpackFile(root *os.Root, name string, r io.Reader, at time.Time) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Chtimes(name, at, at)
}

// rationed is a reader that fails when there is more than it allows.
type rationed struct {
	r    io.Reader
	left int64
}

func (b *rationed) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
