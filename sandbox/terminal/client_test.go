package terminal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

func next(t *testing.T, c *terminal.Client) []byte {
	t.Helper()
	b, err := c.Next(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// drain reads until the program has ended.
func drain(t *testing.T, c *terminal.Client) []byte {
	t.Helper()
	var all []byte
	for {
		b, err := c.Next(limit(t))
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
}

func TestASlowClientStallsNobodyAndIsPaintedAnew(t *testing.T) {
	t.Parallel()
	tt := start(t, os.Args[0], "program", "burst")
	fast, slow, idle := tt.Attach(terminal.Size{}), tt.Attach(terminal.Size{}), tt.Attach(terminal.Size{})
	defer fast.Close()
	defer slow.Close()
	defer idle.Close()
	for _, c := range []*terminal.Client{fast, slow} {
		if b := next(t, c); !bytes.HasPrefix(b, []byte("\x1bc")) {
			t.Fatalf("a client begins with %q", b)
		}
	}
	bursts := 3 * terminal.ClientMost / (64 << 10)
	var seen []byte
	for n := range bursts {
		if err := fast.Type(limit(t), fmt.Appendf(nil, "%d\n", n)); err != nil {
			t.Fatal(err)
		}
		for end := fmt.Appendf(nil, "burst %d.", n); !bytes.Contains(seen, end); {
			seen = append(seen, next(t, fast)...)
		}
	}
	line := strings.Repeat("0123456789abcdef", 4) + "\r"
	if got, want := bytes.Count(seen, []byte(line)), bursts*(64<<10/(len(line)+1)); got != want {
		t.Errorf("the fast client has seen %d lines of %d", got, want)
	}
	typed(t, tt, "END\n")
	if code := ended(t, tt); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for name, c := range map[string]*terminal.Client{"slow": slow, "idle": idle} {
		late := drain(t, c)
		if !bytes.HasPrefix(late, []byte("\x1bc")) || len(late) > terminal.ClientMost {
			t.Errorf("the %s client gets %d bytes: %.40q", name, len(late), late)
		}
		m := terminal.NewModel(terminal.DefaultSize)
		m.Write(late)
		if got, want := m.Text(), tt.Screen(); got != want {
			t.Errorf("the %s client sees\n%s\nnot\n%s", name, got, want)
		}
	}
}

func TestAClientThatAttachesLaterSeesTheScreen(t *testing.T) {
	t.Parallel()
	tt := shell(t, `printf '\033[?1049h\033[3;5Hhere\033[?2004h'; read x`)
	await(t, tt, "here")
	c := tt.Attach(terminal.Size{})
	picture := next(t, c)
	for _, part := range []string{"\x1b[?1049h", "\x1b[3;5Hhere", "\x1b[?2004h"} {
		if !bytes.Contains(picture, []byte(part)) {
			t.Errorf("no %q in %q", part, picture)
		}
	}
	ctx, cancel := context.WithCancel(limit(t))
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
	c.Close()
	c.Close()
	if _, err := c.Next(limit(t)); !errors.Is(err, terminal.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestATerminalIsAsLargeAsTheSmallestOfItsClients(t *testing.T) {
	t.Parallel()
	tt := shell(t, "stty -echo; echo ready; while read x; do stty size; done")
	await(t, tt, "ready")
	wide := tt.Attach(terminal.Size{Cols: 80, Rows: 24})
	defer wide.Close()
	high := tt.Attach(terminal.Size{Cols: 60, Rows: 5000})
	typed(t, tt, "\r")
	await(t, tt, "24 60")
	high.Resize(terminal.Size{Cols: 70, Rows: 20})
	typed(t, tt, "\r")
	await(t, tt, "20 70")
	high.Close()
	typed(t, tt, "\r")
	await(t, tt, "24 80")
}

func TestAProgramIsMadeToPaintForAClientThatAttaches(t *testing.T) {
	t.Parallel()
	tt := shell(t, `trap 'stty size' WINCH; sleep 1000 & echo ready; while :; do wait; done`)
	await(t, tt, "ready")
	defer tt.Attach(terminal.Size{}).Close()
	await(t, tt, "30 99\n30 100")
	if got := tt.Size(); got != terminal.DefaultSize {
		t.Errorf("its size is %v", got)
	}
}

func TestAPictureIsFollowedByWhatTheModelHasNotSeen(t *testing.T) {
	t.Parallel()
	tt := terminal.Offline()
	tt.Publish("seen")
	tt.Dump()
	tt.Publish("\r\nbehind\x1b[6n")
	c := tt.Attach(terminal.Size{})
	defer c.Close()
	m := terminal.NewModel(terminal.DefaultSize)
	m.Write(next(t, c))
	if got := strings.TrimSpace(m.Text()); got != "seen" {
		t.Errorf("the picture is %q", got)
	}
	if got := string(next(t, c)); got != "\r\nbehind" {
		t.Errorf("then comes %q", got)
	}
}

func TestOnlyClientsThatReadAreWaitedFor(t *testing.T) {
	t.Parallel()
	tt := terminal.Offline()
	for range 2 {
		defer tt.Attach(terminal.Size{}).Close() // never reads
	}
	if tt.Full(1) {
		t.Error("it waits for those that do not read")
	}
	c, other := tt.Attach(terminal.Size{}), tt.Attach(terminal.Size{})
	defer other.Close()
	next(t, c)
	for range terminal.ClientMost / 1024 {
		tt.Publish(strings.Repeat("x", 1024))
	}
	if !tt.Full(1) {
		t.Error("it does not wait for the one that reads")
	}
	next(t, other)
	if tt.Full(1) {
		t.Error("it waits for the slower one")
	}
	c.Close()
	if tt.Full(1) {
		t.Error("it waits for one that has left")
	}
}

func TestAModelThatFallsBehindKeepsTheStateOfTheTerminal(t *testing.T) {
	t.Parallel()
	tt := terminal.Offline()
	tt.Publish("\x1b[31m\x1b]8;;https://example.com\x1b\\x")
	tt.Dump()
	tt.Publish("\x1b[?2004h\x1b[>7u\x1b[20h\x1b]0;title\x07\x1b[m\x1b]8;;\x1b\\")
	for range 2 * terminal.BacklogMost / 1024 {
		tt.Publish(strings.Repeat("x", 1024))
	}
	all := tt.Dump()
	last := all[len(all)-1]
	for _, part := range []string{`title "title"`, "kitty [7]", "insert false,true", `link ""`, `pen "\x1b[m"`, "modes  7 25 2004"} {
		if !strings.Contains(last, part) {
			t.Errorf("no %s in %s", part, last)
		}
	}
}
