package demo_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func conversation(text string) string {
	return fmt.Sprintf(`{"model":"m","stream":true,"messages":[{"role":"user","content":%q}]}`, text)
}

// ask returns the status, the Retry-After and what came of an answer, with why it ended.
func ask(t *testing.T, url, text string) (status int, after, body string, err error) {
	t.Helper()
	resp := request(t, http.MethodPost, url+"/v1/chat/completions", conversation(text))
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(b), err
}

func TestItFailsAsOftenAsItIsAskedTo(t *testing.T) {
	t.Parallel()
	g, url := serve(t)
	for _, c := range []struct {
		say           string
		statuses      []int
		after, broken string // of the first answer
	}{
		{"FAIL: 503", []int{503, 503, 503}, "", ""},
		{"FAIL: 503 0 9", []int{503, 503, 503}, "9", ""},
		{"FAIL: 429 2", []int{429, 429, 200, 200}, "1", ""},
		{"FAIL: 500 1 30", []int{500, 200}, "30", ""},
		{"CUT: 2", []int{200, 200}, "", `"2 "`},
	} {
		for i, want := range c.statuses {
			status, after, body, err := ask(t, url, c.say)
			if status != want || i == 0 && after != c.after || status != 200 && err != nil {
				t.Errorf("%s: answer %d is %d after %q: %v", c.say, i, status, after, err)
			}
			if c.broken != "" && (!errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(body, c.broken) || strings.Contains(body, "[DONE]")) {
				t.Errorf("%s: %v after %s", c.say, err, body)
			}
		}
	}
	if _, _, body, err := ask(t, url, "CUT: 3 1"); err == nil {
		t.Errorf("whole at first: %s", body)
	}
	if _, _, body, err := ask(t, url, "CUT: 3 1"); err != nil || !strings.Contains(body, `"3 "`) || !strings.Contains(body, "[DONE]") {
		t.Errorf("afterwards %v, %s", err, body)
	}
	requests := g.Requests()
	if cut, whole := requests[len(requests)-2], requests[len(requests)-1]; cut.CompletionTokens != 0 || whole.CompletionTokens < 1 || whole.PromptTokens < 1 {
		t.Errorf("it counted %d of the one that broke, %d of the other", cut.CompletionTokens, whole.CompletionTokens)
	}
	// A conversation that has gone on is another one.
	if got := chat(t, url, object{"model": "m", "messages": []any{user("hi"), object{"role": "assistant", "content": "x"}, user("FAIL: 429 2")}}); got.status != 429 {
		t.Errorf("status %d", got.status)
	}
	if got := chat(t, url, object{"model": "m", "messages": []any{user("CUT: 3")}}); got.status != 400 {
		t.Errorf("without a stream: %d", got.status)
	}
}

func TestItIsSilentUntilTheClientLeaves(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	for say, first := range map[string]string{"HANG:": "", "HANG: 0": "", "HANG: 2": `"2 "`} {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(conversation(say)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		if first == "" {
			ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			resp, err := http.DefaultClient.Do(req.WithContext(ctx))
			if err == nil {
				resp.Body.Close()
				t.Errorf("%s: answered %d", say, resp.StatusCode)
			}
			cancel()
			leave()
			continue
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() && !strings.Contains(lines.Text(), first) {
		}
		leave() // the server's Close, at the end of the test, waits for its handlers
		for lines.Scan() {
			if lines.Text() != "" {
				t.Errorf("%s: then came %q", say, lines.Text())
			}
		}
		if !errors.Is(lines.Err(), context.Canceled) {
			t.Errorf("%s: %v", say, lines.Err())
		}
		resp.Body.Close()
	}
}
