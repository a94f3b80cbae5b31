package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// leftoverTime is how long what nobody needs any more may stay.
const leftoverTime = 30 * time.Second

// rowlessTime is how long settings may stay that no session has, the time until they are looked for included.
const rowlessTime = 10 * time.Minute

// nothingLeft checks that sessions that were deleted left neither files nor processes.
func (w *world) nothingLeft(ids []string) {
	var left []string
	for deadline := time.Now().Add(leftoverTime); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if left = w.leftovers(ids); len(left) == 0 {
			return
		}
	}
	for _, l := range left {
		w.violated("", violation{"orphan", l})
	}
}

func (w *world) leftovers(ids []string) (left []string) {
	for _, id := range ids {
		for _, pattern := range []string{"sessions/*" + id + "*", "settings/*" + id + "*"} {
			found, _ := filepath.Glob(filepath.Join(w.data, pattern))
			left = append(left, found...)
		}
	}
	specs, _ := filepath.Glob(filepath.Join(w.data, "sandboxes", "*", "spec.json"))
	for _, path := range specs {
		text, _ := os.ReadFile(path)
		for _, id := range ids {
			if strings.Contains(string(text), id) {
				left = append(left, path)
			}
		}
	}
	for _, p := range w.processes() {
		for _, id := range ids {
			if strings.Contains(p, id) {
				left = append(left, p)
			}
		}
	}
	return left
}

// processes lists what runs on behalf of the server but the server itself, with the environment, in which HOME names the session.
func (w *world) processes() (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, _ := os.ReadFile(p + "/cmdline")
		env, _ := os.ReadFile(p + "/environ")
		cwd, _ := os.Readlink(p + "/cwd")
		about := fmt.Sprintf("%s %s cwd %s env %s", p, cmdline, cwd, env)
		if strings.Contains(string(env), "LAP_SANDBOX_ID=") && strings.Contains(about, w.data) {
			found = append(found, strings.ReplaceAll(about, "\x00", " "))
		}
	}
	return found
}

// allGone checks that nothing is left at all when all sessions are deleted.
func (w *world) allGone() {
	var left []string
	for deadline := time.Now().Add(leftoverTime); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		left = w.processes()
		for _, dir := range []string{"sandboxes", "sessions", "settings"} {
			found, _ := filepath.Glob(filepath.Join(w.data, dir, "*"))
			hidden, _ := filepath.Glob(filepath.Join(w.data, dir, ".*"))
			for _, path := range append(found, hidden...) {
				// A server that was killed in a create leaves settings without a row, which it keeps for five minutes.
				if info, err := os.Stat(path); dir != "settings" || err == nil && time.Since(info.ModTime()) > rowlessTime {
					left = append(left, path)
				}
			}
		}
		if len(left) == 0 {
			return
		}
	}
	for _, l := range left {
		w.violated("", violation{"orphan", l})
	}
}
