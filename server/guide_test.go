package main_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store/storetest"
)

// TestTheQuickStartOfTheGuideWorks runs what the guide tells to paste, as it stands and in its order, in one shell.
func TestTheQuickStartOfTheGuideWorks(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: apt-get install %[1]s (go tool task setup does)", tool)
		}
	}
	page, err := os.ReadFile("guide/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu -o pipefail\n"
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(page, -1)
	for _, block := range blocks {
		script += string(block[1]) + "\necho ----\n"
	}
	s := newServer(t, storetest.KindSQLite)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LAP_URL=" + s.url, "MASTER_KEY=" + masterKey}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// What each block should show.
	want := [][]string{
		{"agent 0"}, {"session 0"}, {"You said: Hello! Who answers here?"}, {`"tool": "bash"`, "This came with the agent."},
		{"event: turn.queued", "event: turn.completed", "And once more, as a stream."}, {"1 session.status", "turn.completed"},
		{"user: Hello! Who answers here?", "assistant: "}, {"dead"},
	}
	shown := strings.Split(string(out), "\n----\n")
	if len(blocks) != len(want) || len(shown) != len(want)+1 {
		t.Fatalf("%d blocks show\n%s", len(blocks), out)
	}
	for i, texts := range want {
		for _, text := range texts {
			if !strings.Contains(shown[i], text) {
				t.Errorf("block %d does not show %q but\n%s", i+1, text, shown[i])
			}
		}
	}
}
