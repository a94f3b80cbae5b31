package terminal_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

const patience = time.Minute

func start(t *testing.T, path string, args ...string) *terminal.Terminal {
	t.Helper()
	tt, err := terminal.Start(terminal.Config{Path: path, Args: args, Dir: t.TempDir(), Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tt.Close)
	return tt
}

func shell(t *testing.T, script string) *terminal.Terminal {
	t.Helper()
	return start(t, "/bin/sh", "-c", script)
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func await(t *testing.T, tt *terminal.Terminal, what string) {
	t.Helper()
	if err := tt.Wait(limit(t), func(s string) bool { return strings.Contains(s, what) }); err != nil {
		t.Fatalf("waited for %q: %v; the screen is\n%s", what, err, tt.Screen())
	}
}

func typed(t *testing.T, w *terminal.Terminal, text string) {
	t.Helper()
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func ended(t *testing.T, tt *terminal.Terminal) int {
	t.Helper()
	select {
	case <-tt.Done():
	case <-time.After(patience):
		t.Fatal("the program does not end")
	}
	return tt.ExitCode()
}

func TestAProgramReadsWhatIsTypedAndItsScreenIsSeen(t *testing.T) {
	t.Parallel()
	tt := shell(t, `echo "$TERM $(stty size)"; read x; echo "got <$x>"; exit 7`)
	await(t, tt, "xterm-256color 30 100")
	typed(t, tt, "hällo 你\r")
	await(t, tt, "got <hällo 你>")
	if code := ended(t, tt); code != 7 {
		t.Errorf("exit code %d", code)
	}
	if err := tt.Wait(limit(t), func(string) bool { return false }); !errors.Is(err, terminal.ErrEnded) {
		t.Errorf("waiting for what never comes: %v", err)
	}
	if _, err := tt.Write([]byte("x")); !errors.Is(err, terminal.ErrEnded) {
		t.Errorf("typing after the end: %v", err)
	}
	if !strings.Contains(tt.Screen(), "got <hällo 你>") {
		t.Error("the last screen is gone")
	}
}

func TestTheExitCodeOfAProgramThatASignalEndedIsItsNumberAbove128(t *testing.T) {
	t.Parallel()
	if code := ended(t, shell(t, "kill -KILL $$")); code != 128+9 {
		t.Errorf("exit code %d", code)
	}
}

func TestAPasteIsBracketedForAProgramThatAskedForThat(t *testing.T) {
	t.Parallel()
	tt := shell(t, `stty raw -echo; printf '\033[?2004hready'; dd bs=1 count=25 2>/dev/null | od -An -c | tr -d ' \n'; sleep 1000`)
	await(t, tt, "ready")
	if err := tt.Paste(limit(t), "one\n\x1b[201~two\x03"); err != nil {
		t.Fatal(err)
	}
	await(t, tt, `033[200~one\r[201~two033[201~\r`)
}

func TestCloseEndsWhatTheProgramStarted(t *testing.T) {
	t.Parallel()
	tt := shell(t, `trap '' TERM HUP; setsid sleep 1001 & (trap '' HUP; sleep 1002) & echo started; while :; do sleep 1; done`)
	await(t, tt, "started")
	begun := time.Now()
	tt.Close()
	tt.Close()
	if took := time.Since(begun); took < 4*time.Second {
		t.Errorf("it had %v to end", took)
	}
	if code := tt.ExitCode(); code != 128+9 {
		t.Errorf("exit code %d", code)
	}
}

func TestTheSizeOfAClientThatHasLeftDoesNotCount(t *testing.T) {
	t.Parallel()
	tt := shell(t, "read x")
	want := terminal.Size{Cols: 50, Rows: 20}
	c := tt.Attach(want)
	c.Close()
	c.Resize(terminal.Size{Cols: 10, Rows: 5})
	if got := tt.Size(); got != want {
		t.Errorf("%v", got)
	}
}
