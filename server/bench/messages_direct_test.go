package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openCode is an OpenCode of the same program, configuration and gateway as one that the server runs, with a client of its own.
type openCode struct {
	t       testing.TB
	base    string
	auth    string
	session string
}

var openCodeListens = regexp.MustCompile(`listening on (http://127\.0\.0\.1:[0-9]+)`)

// startOpenCode starts one beside the one that runs below a server's directory.
func startOpenCode(t testing.TB, dir string) *openCode {
	t.Helper()
	var argv, env []string
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		around, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		if bytes.Contains(line, []byte("opencode\x00serve\x00")) && bytes.Contains(around, []byte("="+dir+"/")) {
			argv, env = strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"), strings.Split(strings.TrimRight(string(around), "\x00"), "\x00")
		}
	}
	if argv == nil {
		t.Fatal("the server runs no OpenCode")
	}
	home := t.TempDir()
	o := &openCode{t: t}
	for _, kv := range env {
		if password, ok := strings.CutPrefix(kv, "OPENCODE_SERVER_PASSWORD="); ok {
			o.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte("opencode:"+password))
		}
	}
	// It does not go the server's way out, which leads nowhere from here.
	env = append(env, "HOME="+home, "HTTP_PROXY=", "HTTPS_PROXY=", "ALL_PROXY=", "http_proxy=", "https_proxy=", "all_proxy=", "LAP_SANDBOX_ID=")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = env, home
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait() // an end by SIGKILL
	})
	says := bufio.NewReader(stdout)
	for o.base == "" {
		line, err := says.ReadString('\n')
		if m := openCodeListens.FindStringSubmatch(line); m != nil {
			o.base = m[1]
		} else if err != nil {
			t.Fatalf("OpenCode does not listen: %v", err)
		}
	}
	go func() { _, _ = says.WriteTo(discard{}) }()
	var made struct{ ID string }
	o.post("/session", map[string]any{"title": "session", "permission": []map[string]string{{"permission": "*", "pattern": "*", "action": "allow"}}}, &made)
	o.session = made.ID
	return o
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (o *openCode) request(method, path string, body any) *http.Request {
	o.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		o.t.Error(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, o.base+path, bytes.NewReader(text))
	if err != nil {
		panic(err) // method and path are ours
	}
	req.Header.Set("Authorization", o.auth)
	req.Header.Set("Content-Type", "application/json")
	return req
}

func (o *openCode) post(path string, body, out any) {
	resp, err := http.DefaultClient.Do(o.request(http.MethodPost, path, body))
	if err != nil {
		o.t.Error(err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		o.t.Errorf("OpenCode answers %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		o.t.Error(err)
	}
}

func (o *openCode) prompt(text string) map[string]any {
	return map[string]any{
		"model": map[string]string{"providerID": "litellm", "modelID": "m"}, "parts": []map[string]string{{"type": "text", "text": text}},
	}
}

// message sends a message and returns how long its answer took.
func (o *openCode) message(text string) time.Duration {
	o.t.Helper()
	var answer struct{ Parts []struct{ Type, Text string } }
	begun := time.Now()
	o.post("/session/"+o.session+"/message", o.prompt(text), &answer)
	took := time.Since(begun)
	for _, p := range answer.Parts {
		if p.Type == "text" && strings.Contains(p.Text, text) {
			return took
		}
	}
	o.t.Fatalf("OpenCode answers %+v", answer)
	return 0
}

// first sends a message and returns how long the first piece of its answer took.
func (o *openCode) first(text string) time.Duration {
	o.t.Helper()
	events, err := http.DefaultClient.Do(o.request(http.MethodGet, "/event", nil))
	if err != nil {
		o.t.Fatal(err)
	}
	defer events.Body.Close()
	lines := bufio.NewReader(events.Body)
	until(o.t, lines, time.Now(), "server.connected")
	begun := time.Now()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		var answer any
		o.post("/session/"+o.session+"/message", o.prompt(text), &answer)
	}()
	took := until(o.t, lines, begun, "message.part.delta")
	<-answered
	return took
}
