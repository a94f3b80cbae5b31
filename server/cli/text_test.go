package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/cli"
	"github.com/litellm-agent-platform/lap/server/cli/clitest"
)

func TestForeignTextCannotSteerATerminal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain, 日本, é, 👩\u200d💻":      "plain, 日本, é, 👩\u200d💻",
		"\x1b]0;title\x07":            `\x1b]0;title\x07`,
		"a\rb\x00\x7f":                `a\x0db\x00\x7f`,
		"\u009b31m":                   `\x9b31m`,
		"\u202eevil\u2066\u200f":      `\u202eevil\u2066\u200f`,
		"cut \xe6\x97":                `cut \xe6\x97`,
		"line\nand\ttab":              `line\x0aand\x09tab`,
		"\U000e0041":                  `\ue0041`,
		"replaced \ufffd stays as is": "replaced \ufffd stays as is",
	} {
		if got := cli.Escaped(in, ""); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
	if got := cli.Escaped("line\nand\ttab\r", "\n\t"); got != "line\nand\ttab\\x0d" {
		t.Errorf("got %q", got)
	}
}

func TestAStreamIsEscapedLikeAText(t *testing.T) {
	t.Parallel()
	const text = "日本 \x1b[31m é\u202e \xff\xe6 end\tx\n\u009b"
	for size := 1; size < len(text); size++ {
		var out bytes.Buffer
		w := cli.NewEscaper(&out)
		for i := 0; i < len(text); i += size {
			chunk := text[i:min(i+size, len(text))]
			if n, err := w.Write([]byte(chunk)); err != nil || n != len(chunk) {
				t.Fatalf("write %d: %d %v", i, n, err)
			}
		}
		if want := cli.Escaped(text, "\n\t"); out.String() != want {
			t.Errorf("in pieces of %d: %q, want %q", size, out.String(), want)
		}
	}
}

func FuzzEscapedTextIsHarmless(f *testing.F) {
	f.Add("\x1b[31m\u202e\xff\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range cli.Escaped(text, "") {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
				t.Fatalf("%q keeps %U", text, r)
			}
		}
	})
}

func TestColumnsAreAlignedByWhatCharactersTake(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cli.PrintTable(&out, [][]string{{"ID", "NAME", "X"}, {"1", "日本", "a"}, {"22", "e\x1b", "b"}, {"3", strings.Repeat("n", 100), ""}})
	const want = "" +
		"ID  NAME                                                          X\n" +
		"1   日本                                                          a\n" +
		"22  e\\x1b                                                         b\n" +
		"3   nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestOnlyControlAndTheBracketDetach(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"abc":                           "abc",
		"a\x1db\x1d":                    "a|",
		"a\x1b[93;5ub":                  "a|",
		"\x1b[93;5:2u":                  "|",
		"\x1b[93:125;69;29u":            "|",
		"a\x1b[27;5;93~":                "a|",
		"a\x1d\x1b[93;5u":               "a|",
		"\x1b[93;5:3u":                  "\x1b[93;5:3u", // released
		"\x1b[93;6u":                    "\x1b[93;6u",   // with shift
		"\x1b[93u":                      "\x1b[93u",
		"\x1b[93;u":                     "\x1b[93;u",
		"\x1b[193;5u":                   "\x1b[193;5u",
		"\x1b[93;99999999999999999999u": "\x1b[93;99999999999999999999u",
	} {
		got, detach := cli.CutDetach([]byte(typed))
		if text := string(got); detach && text+"|" != want || !detach && text != want {
			t.Errorf("%q: %q, %v", typed, got, detach)
		}
	}
}

func TestHelpAndUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"run -h", 0, "Usage: lap run [flags] <agent>", ""},
		{"login --help", 0, "without echo", ""},
		{"logs -h", 0, "-since duration", ""},
		{"run", 2, "", "usage: lap run <agent>"},
		{"agents extra", 2, "", "usage: lap agents"},
		{"stop", 2, "", "usage: lap stop <session>..."},
		{"agents -nonsense", 2, "", "-nonsense"},
		{"agents -n 0", 2, "", "at least 1"},
		{"agents -n x", 2, "", "invalid value"},
		{"login ftp://x", 2, "", "not an http"},
		{"login http://user:secret-canary@x", 2, "", "not an http"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := clitest.Run(t, lap(t, "http://127.0.0.1:1", strings.Fields(c.args)...))
			if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || strings.Contains(stderr, "canary") {
				t.Errorf("%d\n%s\n%s", code, stdout, stderr)
			}
		})
	}
}

// lists is a server that has lists of anything and counts pages.
func lists(t *testing.T, rows map[string][]map[string]any) string {
	t.Helper()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := rows[r.URL.Path]
		var from, limit int
		_, _ = fmt.Sscan(r.URL.Query().Get("cursor"), &from)
		_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &limit)
		to := min(from+limit, len(all))
		page := map[string]any{"data": all[from:to], "total": nil, "limit": limit, "offset": 0, "next_cursor": nil}
		if to < len(all) {
			page["next_cursor"] = fmt.Sprint(to)
		}
		_ = json.NewEncoder(w).Encode(page)
	}))
	t.Cleanup(h.Close)
	return h.URL
}

func sessionRows(n int) map[string][]map[string]any {
	var all []map[string]any
	for i := range n {
		all = append(all, map[string]any{
			"id": fmt.Sprintf("01932c07-9111-7aaa-8c3e-%012x", i), "title": fmt.Sprintf("title %d", i/2), "status": "ready",
			"sandbox_state": "running", "agent_id": "a", "created_at": "2026-11-23T10:00:00.000Z", "future_field": 1,
		})
	}
	return map[string][]map[string]any{"/api/v1/managed_agents/sessions": all}
}

func TestListsGoOverPages(t *testing.T) {
	t.Parallel()
	url := lists(t, sessionRows(450))
	stdout, stderr, code := clitest.Run(t, lap(t, url, "sessions", "-n", "450"))
	if lines := strings.Count(stdout, "\n"); code != 0 || lines != 451 || stderr != "" {
		t.Errorf("%d: %d lines, %s", code, lines, stderr)
	}
	stdout, _, code = clitest.Run(t, lap(t, url, "sessions", "--json", "-n", "7"))
	var got []map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil || len(got) != 7 || got[0]["future_field"] == nil {
		t.Errorf("%d %v: %s", code, err, stdout)
	}
	if _, stderr, _ = clitest.Run(t, lap(t, url, "sessions", "-n", "7")); !strings.Contains(stderr, "There are more: -n 70") {
		t.Errorf("%s", stderr)
	}
	if stdout, _, _ = clitest.Run(t, lap(t, lists(t, nil), "sessions", "--json")); strings.TrimSpace(stdout) != "[]" {
		t.Errorf("an empty list is %q", stdout)
	}
}

func TestAnAmbiguousNameListsWhatItMayMean(t *testing.T) {
	t.Parallel()
	url := lists(t, sessionRows(300))
	for arg, want := range map[string][]string{
		"Title 3":                             {`"Title 3" may be any of 2 sessions`, "000000000006  title 3", "000000000007  title 3"},
		"01932c07-9111":                       {"may be any of 300 sessions", "…"},
		"01932C07-9111-7AAA-8C3E-00000000000": {"may be any of 16 sessions"},
		"nothing \x1b[31m":                    {`there is no session "nothing \x1b[31m"`},
	} {
		_, stderr, code := clitest.Run(t, lap(t, url, "logs", arg))
		for _, w := range want {
			if code == 0 || !strings.Contains(stderr, w) {
				t.Errorf("%q: %d %s", arg, code, stderr)
			}
		}
	}
}

func TestARememberedKeyGoesToItsOwnServerOnly(t *testing.T) {
	t.Parallel()
	keys := make(chan string, 1)
	server := func() string {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			keys <- r.Header.Get("Authorization")
			_, _ = w.Write([]byte(`{"data":[],"next_cursor":null}`))
		}))
		t.Cleanup(h.Close)
		return h.URL
	}
	mine, other := server(), server()
	dir := t.TempDir()
	client := func(env ...string) (string, int) {
		cmd := lap(t, "", "agents")
		cmd.Env = append([]string{asLap, "XDG_CONFIG_HOME=" + dir}, env...)
		_, stderr, code := clitest.Run(t, cmd)
		return stderr, code
	}
	login := lap(t, "", "login", mine+"/")
	login.Env = []string{asLap, "XDG_CONFIG_HOME=" + dir}
	login.Stdin = strings.NewReader("remembered-key\n")
	if _, stderr, code := clitest.Run(t, login); code != 0 || <-keys != "Bearer remembered-key" || strings.Contains(stderr, "remembered-key") {
		t.Fatalf("login: %d %s", code, stderr)
	}
	path := filepath.Join(dir, "lap", "config.json")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if stderr, code := client(); code != 0 || <-keys != "Bearer remembered-key" {
		t.Errorf("%d %s", code, stderr)
	}
	if stderr, code := client("LAP_URL=" + mine); code != 0 || <-keys != "Bearer remembered-key" {
		t.Errorf("%d %s", code, stderr)
	}
	if stderr, code := client("LAP_KEY=from-environment"); code != 0 || <-keys != "Bearer from-environment" {
		t.Errorf("%d %s", code, stderr)
	}
	if stderr, code := client("LAP_URL=" + other); code != 1 || !strings.Contains(stderr, "no key for "+other) || len(keys) != 0 {
		t.Errorf("%d %s", code, stderr)
	}
	if stderr, code := client("LAP_URL="+other, "LAP_KEY=from-environment"); code != 0 || <-keys != "Bearer from-environment" {
		t.Errorf("%d %s", code, stderr)
	}
	if err := os.WriteFile(path, []byte(`{"url": remembered-key`), 0o600); err != nil {
		t.Fatal(err)
	}
	if stderr, code := client(); code != 1 || !strings.Contains(stderr, "log in again") || strings.Contains(stderr, "remembered-key") {
		t.Errorf("%d %s", code, stderr)
	}
}
