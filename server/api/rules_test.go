package api

import (
	"encoding/base64"
	"strings"
	"testing"
)

// table checks that a rule lets the first list pass and refuses the second.
func table(t *testing.T, check func(string) string, good, bad []string) {
	t.Helper()
	for _, s := range good {
		if message := check(s); message != "" {
			t.Errorf("%q: %s", s, message)
		}
	}
	for _, s := range bad {
		if check(s) == "" {
			t.Errorf("%q passes", s)
		}
	}
}

func TestEgressEntries(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	table(t, checkEgress,
		[]string{
			"example.com", "EXAMPLE.com", "example.com.", "*.example.com", "*.Example.com.", "a-b.c1", "xn--mnchen-3ya.de", "localhost",
			"1.2.3.4", "10.0.0.0/8", "0.0.0.0/0", "::1", "2001:db8::/32", "::ffff:1.2.3.4", "fe80::1", label + ".com", "3com.com", "a.b.c.d.e",
		},
		[]string{
			"*", "*.com", "*.com.", "*.", "*.*.example.com", "a.*.com", "*example.com", ".", "..", ".example.com", "example..com", "example.com..",
			"http://example.com", "example.com:443", "example.com/", "example.com/path", "//example.com", "user@example.com", "h:1:2", "[::1]", "[::1]:80",
			"1.2.3.4:80", "fe80::1%eth0", "fe80::1%25eth0", "10.0.0.0/33", "10.0.0.0/8/8", "10.0.0.0/-1", "10.0.0.0/08", "1.2.3", "1.2.3.4.5", "256.1.1.1",
			"0177.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "127.1", "a.0x1", "exa mple.com", " example.com", "example.com ", "ex\x00ample.com", "example.com%00",
			"ex\tample.com", "münchen.de", "exаmple.com", "-a.com", "a-.com", "a_b.com", label + "a.com", strings.Repeat("a.", 127) + "aa", "example.com\n", "*.1.2.3.4", "#", "a,b.com",
		})
}

func TestBranches(t *testing.T) {
	t.Parallel()
	table(t, checkBranch,
		[]string{"main", "feature/x", "a-b_c.d", "release/1.0", "ünïcode", "a@b", "x/-y", "HEAD~"[:4], "lock", "a.lockx"},
		[]string{
			"", "-x", "--upload-pack=x", "@", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a..b", "a@{b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b",
			"a\x00", "a\n", "a\x7f", "a\x1f",
		})
}

func TestRepositoryURLs(t *testing.T) {
	t.Parallel()
	table(t, func(s string) string { return checkRepoURL(s, []string{"https"}) },
		[]string{
			"https://github.com/org/repo", "https://github.com/org/repo.git", "HTTPS://github.com/x", "https://git.example.com:8443/x?y=z", "https://1.2.3.4/x",
			"https://[2001:db8::1]/x", "https://h", "https://h/a%20b", "https://h:65535/x", "https://h:/x",
		},
		[]string{
			"", "github.com/org/repo", "http://github.com/x", "git@github.com:org/repo", "ssh://git@github.com/x", "git://h/x", "file:///x", "ext::sh -c id", "https:x", "https:///x",
			"https://user@h/x", "https://user:pw@h/x", "https://@h/x", "https://h/x#f", "https://h/x#", "https://h/\nx", "https://h/x y", "https://h\\x", "https://-h/x", "https://h:port/x", "https://h:65536/x", "https://h:0/x",
			"https://[fe80::1%25eth0]/x", "https://0x7f000001/x", "https://h_x/y", "https://%00/x", "//h/x", "/x", "-x", "https://ex\x00ample.com/",
		})
	table(t, func(s string) string { return checkRepoURL(s, []string{"https", "http", "file"}) },
		[]string{"http://h/x", "file:///srv/repo", "https://h/x"}, []string{"file://h/x", "file:x", "file:///x\x00", "ssh://h/x", "http://u@h/x"})
}

func TestSandboxPaths(t *testing.T) {
	t.Parallel()
	table(t, checkSandboxPath,
		[]string{"~/a", "~/.config/x", "/workspace/repo/a", "/tmp/a b", "/data/ä", "/tmp/./a", "/tmp//a", "/tmp/..a", "/tmp/a..", "/tmp/" + strings.Repeat("a", 255)},
		[]string{
			"a", "./a", "~", "~/", "~root/x", "/tmp", "/tmp/", "/tmp/.", "/tmpx/a", "/etc/passwd", "/", "//tmp/a", "/tmp/../etc/passwd", "~/..", "/tmp/a/..", "..", "../tmp/a", "C:\\x",
			"/workspace/..", "/tmp/a\nb", "/tmp/a\x00", "/tmp/" + strings.Repeat("a", 256), "~\\..\\x",
		})
}

func TestStrictBase64(t *testing.T) {
	t.Parallel()
	check := func(s string) string {
		if checkBase64(s) != nil {
			return "refused"
		}
		if b, err := base64.StdEncoding.Strict().DecodeString(s); err != nil || len(b) != decodedLen(s) {
			return "decoder differs"
		}
		return ""
	}
	table(t, check, []string{"", "AAAA", "aGk=", "aA==", "+/+/", "AAAAaGk="},
		[]string{"A", "AA", "AAA", "A===", "====", "AA=A", "=AAA", "aGk", "aGk=\n", "aG k", "AAAA\n", "\nAAAA", "AAA\n", "-_-_", "aB==", "aGl=", "AA==AAAA", "ä", "AAAA=AAA"})
}

func FuzzBase64AgreesWithTheDecoder(f *testing.F) {
	for _, s := range []string{"", "AAAA", "aGk=", "aB==", "AA\nA", "AAAA\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		valid := err == nil && !strings.ContainsAny(s, "\r\n")
		if valid != (checkBase64(s) == nil) {
			t.Fatalf("%q: decoder %v, check %v", s, err, checkBase64(s))
		}
		if valid && decodedLen(s) != len(b) {
			t.Fatalf("%q: %d bytes, said %d", s, len(b), decodedLen(s))
		}
	})
}

func FuzzDecodeJSONNeverPanicsAndKeepsItsBounds(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,null,true,"\u00e9"]}`, `{"a":1,"a":2}`, `"\ud800"`, "\ufeff{}", `[[[[`, `1e999`, `-0.0`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := decodeJSON(data)
		if err != nil {
			if p := toProblem(err); p.status != 400 || len(p.details) != 1 {
				t.Fatalf("%+v", p)
			}
			return
		}
		var walk func(v any, depth int)
		walk = func(v any, depth int) {
			if depth > maxDepth {
				t.Fatal("too deep")
			}
			switch v := v.(type) {
			case string:
				if strings.ContainsRune(v, 0) {
					t.Fatal("NUL")
				}
			case []any:
				for _, e := range v {
					walk(e, depth+1)
				}
			case map[string]any:
				for _, e := range v {
					walk(e, depth+1)
				}
			}
		}
		walk(v, 0)
	})
}
