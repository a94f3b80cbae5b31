package cli

import (
	"bytes"
	"regexp"
	"strconv"
)

const keyDetach = 0x1d // Ctrl-]

// detachSequence is Ctrl-] as a terminal reports it to a program that has asked for more than plain bytes: by the keyboard
// protocol of kitty, CSI 93;modifiers u, or that of xterm, CSI 27;modifiers;93 ~.
var detachSequence = regexp.MustCompile(`\x1b\[(?:93(?::[0-9:]*)?;([0-9]+)(?::([0-9]+))?(?:;[0-9:]*)?u|27;([0-9]+);93~)`)

// Modifiers count from 1; locks are keys that make no other key of it.
const (
	modifierCtrl  = 4
	modifierLocks = 64 | 128
	eventRelease  = "3"
)

// cutDetach returns what was typed before Ctrl-], and whether it was.
func cutDetach(typed []byte) ([]byte, bool) {
	before, _, found := bytes.Cut(typed, []byte{keyDetach})
	for _, at := range detachSequence.FindAllSubmatchIndex(typed, -1) {
		if at[0] < len(before) && isDetach(group(typed, at, 1)+group(typed, at, 3), group(typed, at, 2)) {
			return typed[:at[0]], true
		}
	}
	return before, found
}

func group(b []byte, at []int, n int) string {
	if at[2*n] < 0 {
		return ""
	}
	return string(b[at[2*n]:at[2*n+1]])
}

func isDetach(modifiers, event string) bool {
	n, err := strconv.Atoi(modifiers)
	return err == nil && (n-1)&^modifierLocks == modifierCtrl && event != eventRelease
}
