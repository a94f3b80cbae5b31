package api

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// What the rules must find, said once more in another way.
var (
	plainDomain = regexp.MustCompile(`^(?i:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)
	likeNumber  = regexp.MustCompile(`(?i)^(.*\.)?([0-9]+|0x[0-9a-f]*)\.?$`)
	hostChars   = regexp.MustCompile(`^[A-Za-z0-9.:*/-]+$`)
)

// isName tells whether s is a domain that nobody can take for an address.
func isName(s string) bool {
	return plainDomain.MatchString(s) && len(strings.TrimSuffix(s, ".")) <= 253 && !likeNumber.MatchString(s) && !hexLast(s)
}

// hexLast tells whether the last label begins like a hexadecimal number.
func hexLast(s string) bool {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	return strings.HasPrefix(s[strings.LastIndexByte(s, '.')+1:], "0x")
}

func FuzzEgressEntriesAreNamesAddressesAndPrefixesOnly(f *testing.F) {
	for _, s := range []string{
		"example.com", "*.example.com.", "10.0.0.0/8", "::ffff:1.2.3.4", "2001:db8::/32", "fe80::1%eth0", "user@example.com", "h:1:2", "0x7f.1", "0177.0.0.1", "2130706433", "ex\x00ample.com", "a%00.com",
		"*.com", "EXAMPLE.COM", "xn--e1afmkfd.xn--p1ai", "1.2.3.4/8", "[::1]", "a..b", "a_b", "exаmple.com", "a.0x", "a.0xg", "1.2.3.4.", "::1/128",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return
		}
		accepted := checkEgress(s) == ""
		prefix, prefixErr := netip.ParsePrefix(s)
		ip, ipErr := netip.ParseAddr(s)
		name, wildcard := strings.CutPrefix(s, "*.")
		named := isName(name) && (!wildcard || strings.Contains(strings.TrimSuffix(name, "."), "."))
		if want := prefixErr == nil || ipErr == nil && ip.Zone() == "" || named; accepted != want {
			t.Fatalf("%q: accepted %v, want %v", s, accepted, want)
		}
		if !accepted {
			return
		}
		if !hostChars.MatchString(s) {
			t.Errorf("%q has more than a host can have", s)
		}
		switch {
		case prefixErr == nil:
			if again, err := netip.ParsePrefix(prefix.String()); err != nil || again != prefix {
				t.Errorf("%q is %v, which is %v, %v", s, prefix, again, err)
			}
		case ipErr == nil:
			if again, err := netip.ParseAddr(ip.String()); err != nil || again != ip {
				t.Errorf("%q is %v, which is %v, %v", s, ip, again, err)
			}
		default:
			canonical := strings.ToLower(strings.TrimSuffix(name, "."))
			u, err := url.Parse("https://" + canonical + ":443/")
			if err != nil || u.Hostname() != canonical || checkEgress(canonical) != "" {
				t.Errorf("%q is the host %v, %v", s, u, err)
			}
		}
	})
}

func FuzzRepositoryURLsHaveAHostAndNoSecrets(f *testing.F) {
	for _, s := range []string{
		"https://github.com/org/repo", "HTTPS://h/x", "https://[2001:db8::1]:8443/x?y=z", "https://u:p@h/x", "https://h/x#", "https://h:99999/x", "https://h:/x", "https://h/\nx", "https:x", "//h/x", "https://h%00/",
		"https://0x7f000001/x", "https://[fe80::1%25eth0]/", "ext::sh -c id", "file:///x", "https://h/%0a", "https://h?x", "https://h\\@x/", "https://*.h/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkRepoURL(s, []string{"https"}) != "" {
			return
		}
		u, err := url.Parse(s)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		ip, ipErr := netip.ParseAddr(u.Hostname())
		if u.Scheme != "https" || u.User != nil || u.Fragment != "" || strings.ContainsAny(s, "#\\ ") || hasControl(s) || !(isName(u.Hostname()) || ipErr == nil && ip.Zone() == "") {
			t.Errorf("%q passes", s)
		}
		if p := u.Port(); p != "" {
			if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
				t.Errorf("%q has port %s", s, p)
			}
		}
		again, err := url.Parse(u.String())
		if err != nil || again.Host != u.Host || again.Path != u.Path || again.RawQuery != u.RawQuery {
			t.Errorf("%q is %v, which is %v, %v", s, u, again, err)
		}
	})
}

func FuzzEnvironmentsAreMeasuredAsCompactJSON(f *testing.F) {
	f.Add("A", "x", "PORT", "y", 0)
	f.Add("1A", "", "a b", "ä\"\n\u2028<>&", 1)
	f.Add("", "\x01\x7f", "_", "\U0010ffff", 16384)
	f.Add("K", "\\/", "REPO_URL", "\b\f\r\t", 16370)
	name := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string, pad int) {
		value1 += strings.Repeat("x", min(max(pad, 0), 20_000))
		env := map[string]string{key1: value1, key2: value2}
		for key, value := range env {
			if !utf8.ValidString(key) || !utf8.ValidString(value) || strings.Contains(key+value, "\x00") {
				return // no such body gets this far
			}
		}
		b := new(strings.Builder)
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		if err := e.Encode(env); err != nil {
			t.Fatal(err)
		}
		// encoding/json escapes these two without need, where nothing escapes the backslash itself.
		compact := regexp.MustCompile(`\\\\|\\u202[89]`).ReplaceAllStringFunc(strings.TrimSuffix(b.String(), "\n"), func(s string) string {
			if len(s) == 2 {
				return s
			}
			return "xyz"
		})
		want := map[string]bool{}
		if len(compact) > 16384 {
			want["/env_vars"] = true
		}
		body := map[string]any{}
		for key, value := range env {
			if body[key] = value; !name.MatchString(key) || slices.Contains(reservedEnv, key) {
				want[pointer("env_vars", key)] = true
			}
		}
		var found violations
		checkEnv(map[string]any{"env_vars": body}, "", &found)
		for _, d := range found.list {
			if !want[d.Field] {
				t.Errorf("%q: %s", d.Field, d.Message)
			}
			delete(want, d.Field)
		}
		if len(want) > 0 {
			t.Errorf("%v is not found in %d bytes", want, len(compact))
		}
	})
}

// badRef is what git check-ref-format forbids, line by line.
var badRef = regexp.MustCompile(`(^|/)\.|\.lock(/|$)|\.\.|[\x00-\x20\x7f~^:?*\[\\]|^/|/$|//|\.$|@\{|^@$|^$|^-`)

func FuzzBranchesAreWhatGitAllows(f *testing.F) {
	for _, s := range []string{"main", "a/b", "-x", "@", "a@{b", "a.lock", "a.lock/b", ".a", "a/.b", "a..b", "a.", "a b", "ä", "\x7f", "a//b", "/a", "a/", "@/x", "x.lockx", "a\\b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if accepted := checkBranch(s) == ""; accepted == badRef.MatchString(s) {
			t.Errorf("%q: accepted %v", s, accepted)
		}
	})
}

func TestBranchesAgreeWithGit(t *testing.T) {
	t.Parallel()
	names := []string{
		"main", "feature/x", "a-b_c.d", "release/1.0", "ünïcode", "a@b", "x/-y", "HEADx", "lock", "a.lockx", "日本", "a/b/c", "@x", "x@", "a{b", "a}", "#1", "a'b", `a"b`, "a|b", "a;b", "a$b", "a&b", "(a)", "<a>", "a!", "%00", "a,b", "=", "+",
		"-x", "--upload-pack=x", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", `a\b`, "a..b", "a@{b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a\n", "a\x7f", "a\x1f", "a/./b", "..", ".", "/", "a.lock.", "a/.lock", "", "\u0085",
	}
	for _, name := range names {
		cmd := exec.CommandContext(t.Context(), "git", "check-ref-format", "--branch", name)
		cmd.Dir = t.TempDir()
		legal := cmd.Run() == nil
		if got := checkBranch(name) == ""; got != legal {
			t.Errorf("%q: accepted %v, by git %v", name, got, legal)
		}
	}
}

func FuzzSandboxPathsStayUnderTheirRoots(f *testing.F) {
	for _, s := range []string{"~/a", "/workspace/repo/x", "/tmp/../etc/passwd", "/tmp/./a", "/tmp//a", "~root/x", "//tmp/a", "/data/..a", "/tmp/a/..", "~/a/b/../../..", "/tmp/\n", "tmp/a", "/workspace", "~/.", "/tmpx/a", "~"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" || checkSandboxPath(s) != "" {
			return
		}
		full := s
		if rest, ok := strings.CutPrefix(s, "~/"); ok {
			full = "/home/user/" + rest
		}
		clean := path.Clean(full)
		under := slices.ContainsFunc([]string{"/home/user/", "/workspace/", "/tmp/", "/data/"}, func(root string) bool { return strings.HasPrefix(clean, root) && strings.HasPrefix(full, root) })
		if !under || strings.ContainsAny(s, "\x00\r\n") || slices.Contains(strings.Split(s, "/"), "..") || len(path.Base(clean)) > 255 || strings.HasSuffix(s, "/") {
			t.Errorf("%q is %q", s, clean)
		}
	})
}
