package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// procStat is what /proc says of a process.
type procStat struct {
	state  string
	parent int
	start  uint64 // clock ticks since boot; with the pid it names a process for ever
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	// The second field is the program's name and may hold spaces and parentheses.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("read /proc/%d/stat: too short", pid)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return procStat{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return procStat{state: fields[0], parent: parent, start: start}, nil
}

// descendants returns the live processes below pid, zombies left out.
func descendants(pid int) map[int]procStat {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := map[int]procStat{}
	for _, e := range entries {
		if p, err := strconv.Atoi(e.Name()); err == nil {
			if st, err := readStat(p); err == nil {
				all[p] = st
			}
		}
	}
	found := map[int]procStat{}
	for p, st := range all {
		if st.state != "Z" && st.state != "X" && isBelow(all, p, pid) {
			found[p] = st
		}
	}
	return found
}

func isBelow(all map[int]procStat, p, top int) bool {
	for range len(all) {
		st, ok := all[p]
		if !ok || st.parent == 0 {
			return false
		}
		if st.parent == top {
			return true
		}
		p = st.parent
	}
	return false
}

// hasEnv reports whether a process was started with the given KEY=value. One that may not be read counts as without.
func hasEnv(pid int, kv string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	for e := range bytes.SplitSeq(b, []byte{0}) {
		if string(e) == kv {
			return true
		}
	}
	return false
}
