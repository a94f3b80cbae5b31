package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// wipeWindow is how much memory is looked at in one step.
const wipeWindow = 1 << 20

// dropToken takes the clone credential out of this process: what runs from now on may have the rights to read its memory. A
// credential that the harness is given anyway stays.
func dropToken(c sandboxd.SessionConfig, secrets *redactor) error {
	if c.Repo.Token == nil || len(*c.Repo.Token) < shortSecret {
		return nil
	}
	token := *c.Repo.Token
	c.Repo.Token = nil
	secrets.learn(c)
	for _, v := range c.Env {
		if strings.Contains(v, token) {
			return nil
		}
	}
	if err := errors.Join(wipe(gitBasic(token)), wipe(token)); err != nil {
		return fmt.Errorf("wipe the clone credential: %w", err)
	}
	return nil
}

// wipe overwrites every copy of a secret in this process's memory with asterisks, the caller's included: buffers of the request
// it came in, of its decoder, and what was made of it since. Nobody may use the secret any more.
func wipe(secret string) error {
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil // not even its own user may read a protected process
	}
	if err != nil {
		return err
	}
	defer mem.Close()
	// Outside of Go's heap, so that the search does not find itself.
	own, err := unix.Mmap(-1, 0, wipeWindow+len(secret), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(own) }()
	copy(own, secret)
	w := wiper{mem: mem, needle: own[:len(secret)], window: own[len(secret):], stars: bytes.Repeat([]byte{'*'}, len(secret))}
	w.from = int64(uintptr(unsafe.Pointer(&own[0])))
	w.to = w.from + int64(len(own))
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil {
			return fmt.Errorf("read maps: %w", err)
		}
		if !strings.HasPrefix(perm, "rw") || strings.Contains(line, "[v") {
			continue
		}
		if err := w.wipe(int64(from), int64(to)); err != nil {
			return err
		}
	}
	return nil
}

// wiper searches one range of memory after the other. Its own needle and window, from from to to, are left out.
type wiper struct {
	mem                   *os.File
	needle, window, stars []byte
	from, to              int64
}

func (w wiper) wipe(from, to int64) error {
	for at := from; at < to; {
		n, err := w.mem.ReadAt(w.window[:min(int64(len(w.window)), to-at)], at)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EFAULT) {
			return err
		}
		if n < len(w.needle) {
			return nil // the end, or gone since the maps were read
		}
		if err := w.wipeWindow(at, w.window[:n]); err != nil {
			return err
		}
		at += int64(n)
		if at < to {
			at -= int64(len(w.needle)) - 1 // a copy may lie across the border
		}
	}
	return nil
}

func (w wiper) wipeWindow(at int64, window []byte) error {
	for i := 0; ; i += len(w.needle) {
		hit := bytes.Index(window[i:], w.needle)
		if hit < 0 {
			return nil
		}
		i += hit
		if addr := at + int64(i); addr < w.from || addr >= w.to {
			if _, err := w.mem.WriteAt(w.stars, addr); err != nil {
				return err
			}
		}
	}
}
