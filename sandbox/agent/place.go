package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// place is the directory by which a sandboxd is found: a lock held while it lives, who it is, and why it ended.
type place struct {
	dir  string
	lock *os.File
}

type pidFile struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // field 22 of /proc/self/stat, in clock ticks since boot
	BootID    string `json:"boot_id"`
}

type exitFile struct {
	Code   int    `json:"code"`
	Reason string `json:"reason"`
}

// takePlace locks dir and says who holds it. It fails if another sandboxd lives there.
func takePlace(dir string) (*place, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	p := &place{dir: dir, lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w: another sandboxd runs here", dir, err), lock.Close())
	}
	me, err := identify()
	if err == nil {
		err = writeJSON(filepath.Join(dir, "pid.json"), me)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return p, nil
}

// leave writes why sandboxd ends and gives up the lock.
func (p *place) leave(code int, reason string) error {
	err := writeJSON(filepath.Join(p.dir, "exit.json"), exitFile{Code: code, Reason: reason})
	return errors.Join(err, p.lock.Close())
}

func identify() (pidFile, error) {
	st, err := readStat(os.Getpid())
	if err != nil {
		return pidFile{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return pidFile{}, fmt.Errorf("read boot id: %w", err)
	}
	return pidFile{Pid: os.Getpid(), StartTime: st.start, BootID: strings.TrimSpace(string(boot))}, nil
}

// writeJSON replaces a file whole: a reader, or a crash, sees the old one or the new one.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
