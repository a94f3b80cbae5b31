package bench_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/servertest"
)

// The test binary is also a stand-in for claude: it speaks the same protocol on its standard input and output and answers at once.
func init() {
	if len(os.Args) > 1 && os.Args[1] == standInVerb {
		if err := standIn(os.Stdin, os.Stdout); err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

const standInVerb = "stand-in"

// standInReply is what it says.
const standInReply = "You said it."

func standIn(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	say := bufio.NewWriter(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var m struct {
			Type      string `json:"type"`
			UUID      string `json:"uuid"`
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		switch m.Type {
		case "control_request":
			fmt.Fprintf(say, `{"type":"control_response","response":{"subtype":"success","request_id":%q,"response":{}}}`+"\n", m.RequestID)
		case "user":
			for _, l := range []string{
				`{"type":"command_lifecycle","command_uuid":"` + m.UUID + `","state":"started"}`,
				`{"type":"stream_event","event":{"type":"content_block_start","index":0,"content_block":{"type":"text"}}}`,
				`{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + standInReply + `"}}}`,
				`{"type":"assistant","message":{"model":"m","content":[{"type":"text","text":"` + standInReply + `"}]}}`,
				`{"type":"stream_event","event":{"type":"content_block_stop","index":0}}`,
				`{"type":"result","subtype":"success","is_error":false,"terminal_reason":"completed","result":"` + standInReply + `"}`,
				`{"type":"command_lifecycle","command_uuid":"` + m.UUID + `","state":"completed"}`,
			} {
				_, _ = say.WriteString(l + "\n")
			}
		}
		if err := say.Flush(); err != nil {
			return err
		}
	}
}

// firstOfStandIn speaks to the stand-in directly and returns how long the first piece of each answer took.
func firstOfStandIn(t testing.TB, n int) (took []time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], standInVerb)
	cmd.Env = []string{"GOMAXPROCS=1"}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for range n {
		begun := time.Now()
		if _, err := io.WriteString(in, `{"type":"user","uuid":"u"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		took = append(took, until(t, lines, begun, `"text_delta"`))
		until(t, lines, begun, `"state":"completed"`)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	return took
}

// standInDir is a directory of harnesses in which the stand-in has claude's place.
func standInDir(t testing.TB) string {
	t.Helper()
	claude, err := local.NPM(servertest.HarnessDir(t)).Install(t.Context(), "claude-agent-sdk", func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(servertest.HarnessDir(t), claude)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, rel)
	script := fmt.Sprintf("#!/bin/sh\nexec env GOMAXPROCS=1 '%s' %s\n", exe, standInVerb)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}
