package skill_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/litellm-agent-platform/lap/server/skill"
)

// slugs gives each name its slug, in order.
func slugs(names ...string) []string {
	var got []string
	for _, n := range names {
		got = append(got, skill.Slug(n, a, func(s string) bool { return slices.Contains(got, s) }))
	}
	return got
}

func TestSlugsAreFoldedCutAndUnique(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 59)
	for _, c := range []struct{ names, want []string }{
		{[]string{"Release notes"}, []string{"release-notes"}},
		{[]string{"  Ünïcödé -- Ærø! ", "ﬁ², K"}, []string{"unicode-r", "fi2-k"}},
		{[]string{"İstanbul", "ŚĆ", "e\u0301"}, []string{"istanbul", "sc", "e"}},
		{[]string{"日本", "", "!?"}, []string{a, a + "-2", a + "-3"}},
		{[]string{"a", "A", "a-2", "a"}, []string{"a", "a-2", "a-2-2", "a-3"}},
		{[]string{long + "bcd"}, []string{long + "b"}},
		{[]string{long + "-b", long + " c"}, []string{long, long[:58] + "-2"}},
		{[]string{long[:57] + " bc", long[:57] + " bc"}, []string{long[:57] + "-bc", long[:57] + "-2"}},
		{[]string{"../../etc/passwd", "..", "a\x00b\n"}, []string{"etc-passwd", a, "a-b"}},
	} {
		if got := slugs(c.names...); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.names, got, c.want)
		}
	}
	var many []string
	for range 120 {
		many = append(many, strings.Repeat("x", 64))
	}
	got := slugs(many...)
	slices.Sort(got)
	if len(slices.Compact(got)) != 120 || slices.ContainsFunc(got, func(s string) bool { return len(s) > 60 }) {
		t.Errorf("not unique or too long: %q", got)
	}
}

// slugForm is what opencode asks of a skill's name.
var slugForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func FuzzSlug(f *testing.F) {
	for _, seed := range []string{"", "Release notes", "Ünïcödé", "--a--b--", "\xff", strings.Repeat("a-", 40), "日本", "K", "../x", "\u0345\u0130"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		got := slugs(one, two, one)
		for i, s := range got {
			if !slugForm.MatchString(s) || len(s) > 60 || slices.Contains(got[:i], s) {
				t.Fatalf("%q and %q: %q", one, two, got)
			}
		}
		if again := slugs(got[0]); again[0] != got[0] {
			t.Fatalf("the slug of %q is %q", got[0], again[0])
		}
	})
}

func TestContentWithFrontMatterIsTheFile(t *testing.T) {
	t.Parallel()
	for content, has := range map[string]bool{
		"---\nname: x\n---\nbody": true, "--- \r\n---\t": true, "---\n---": true,
		"---\nname: x\nbody": false, "---": false, "----\nx\n---\n": false, "\n---\nx\n---": false, "x\n---\ny\n---\n": false, "--- x\n---\n---": false, "": false,
	} {
		got := string(skill.File("slug", "Name", nil, content))
		want := "---\nname: \"slug\"\ndescription: \"Name\"\n---\n\n" + content + "\n"
		if has {
			want = content
		}
		if got != want {
			t.Errorf("%q: got %q", content, got)
		}
	}
	empty := ""
	if got := string(skill.File("slug", "Name", &empty, "x")); !strings.Contains(got, "description: \"Name\"\n") {
		t.Errorf("got %q", got)
	}
}

func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "plain", `a "quoted": \value\`, "two\nlines\r\n", "- # ' & * ! | > % @ `", "true", "---\nx: y\n---\n", "\x00\x7f\u0085\u2028\ufeff\uffff\U0010ffff\xff", "é 日本 🎉", "\t",
	} {
		f.Add("Name", seed, "content")
		f.Add(seed, "description", "content")
		f.Add("Name", "description", seed)
	}
	f.Fuzz(func(t *testing.T, name, description, content string) {
		slug := skill.Slug(name, a, func(string) bool { return false })
		file := string(skill.File(slug, name, &description, content))
		if file == content {
			return // it has front matter
		}
		header, body, ok := strings.Cut(strings.TrimPrefix(file, "---\n"), "\n---\n\n")
		var got struct{ Name, Description string }
		if err := yaml.Unmarshal([]byte(header), &got); !ok || err != nil || body != content+"\n" {
			t.Fatalf("%q: %v", file, err)
		}
		want := valid(description)
		if want == "" {
			want = valid(name)
		}
		if got.Name != slug || got.Description != want {
			t.Fatalf("%q: got %+v", file, got)
		}
	})
}

// valid has U+FFFD for each byte that is not UTF-8.
func valid(s string) string { return string([]rune(s)) }
