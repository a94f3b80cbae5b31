package skill_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/litellm-agent-platform/lap/server/skill"
)

const (
	a    = "01932c07-a0b1-7c22-9d33-4e5f60718293"
	b    = "01932c07-a0b1-7c22-9d33-4e5f60718294"
	gone = "01932c07-a0b1-7c22-9d33-4e5f60718295" // of no skill
)

func exists(id string) bool { return id == a || id == b }

func parse(text string) skill.Prompt { return skill.Parse(text, exists) }

// named writes A, B and X for the ids.
var named = strings.NewReplacer("skill:A", "skill:"+a, "skill:B", "skill:"+b, "skill:X", "skill:"+gone)

func TestAttachedSkillsAreBlocksAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ prompt, want string }{
		{"Base", "Base\n\n<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo"},
		{"", "<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo"},
		{" \n\t", "<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo"},
		{"  Base\n\n \r\n", "  Base\n\n<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo"},
		{"Base\n<!-- skill:B -->\n  \n   mine  \n", "Base\n\n<!-- skill:B -->\n   mine\n\n<!-- skill:A -->\none"},
		{"<!-- skill:X -->\ntext", "<!-- skill:X -->\ntext\n\n<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo"},
	} {
		p := parse(named.Replace(c.prompt)).Attach(a, "\n one\n").Attach(b, "two")
		if got, want := p.String(), named.Replace(c.want); got != want {
			t.Errorf("%q: got %q, want %q", c.prompt, got, want)
		}
		if again := p.Attach(b, "other"); !reflect.DeepEqual(again, p) {
			t.Errorf("%q: attaching again made %+v of %+v", c.prompt, again, p)
		}
	}
}

func TestAMarkerIsAWholeLineWithTheIDOfASkill(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]skill.Prompt{
		"x\n<!-- skill:A -->\none":                       {Base: "x", Blocks: []skill.Block{{ID: a, Text: "one"}}},
		"<!-- skill:A -->":                               {Blocks: []skill.Block{{ID: a}}},
		"<!-- skill:A --> \t\r\none\r\n":                 {Blocks: []skill.Block{{ID: a, Text: "one"}}},
		"<!-- skill:A -->\u2003\none":                    {Blocks: []skill.Block{{ID: a, Text: "one"}}},
		"<!-- skill:A -->\n<!-- skill:A -->\nx":          {Blocks: []skill.Block{{ID: a}, {ID: a, Text: "x"}}},
		"<!-- skill:A -->\none\n<!-- skill:X -->\n\nx":   {Blocks: []skill.Block{{ID: a, Text: "one\n<!-- skill:X -->\n\nx"}}},
		"<!-- skill:B -->\n <!-- skill:A -->":            {Blocks: []skill.Block{{ID: b, Text: " <!-- skill:A -->"}}},
		"x <!-- skill:A -->":                             {Base: "x <!-- skill:A -->"},
		"<!-- skill:A --> x":                             {Base: "<!-- skill:A --> x"},
		"<!--skill:A-->":                                 {Base: "<!--skill:A-->"},
		"<!-- skill: A -->":                              {Base: "<!-- skill: A -->"},
		"x\r<!-- skill:A -->\rone":                       {Base: "x\r<!-- skill:A -->\rone"},
		"<!-- skill:" + strings.ToUpper(a) + " -->\nx":   {Base: "<!-- skill:" + strings.ToUpper(a) + " -->\nx"},
		"<!-- skill:" + strings.ReplaceAll(a, "-", "0"):  {Base: "<!-- skill:" + strings.ReplaceAll(a, "-", "0")},
		"<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo": {Blocks: []skill.Block{{ID: a, Text: "one"}, {ID: b, Text: "two"}}},
	} {
		got := parse(named.Replace(text))
		for i := range want.Blocks {
			want.Blocks[i].Text = named.Replace(want.Blocks[i].Text)
		}
		want.Base = named.Replace(want.Base)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}

func TestDetachTakesOutTheBlocksOfASkillAndNothingElse(t *testing.T) {
	t.Parallel()
	p := parse(named.Replace("  Base \n\n<!-- skill:A -->\none\n<!-- skill:X -->\n<!-- skill:B -->\n  two\n\n<!-- skill:A -->\nthree"))
	if got := p.IDs(); !slices.Equal(got, []string{a, b}) {
		t.Errorf("ids %v", got)
	}
	before := p.String()
	for want, got := range map[string]skill.Prompt{
		"  Base\n\n<!-- skill:B -->\n  two":                                            p.Detach(a),
		"  Base\n\n<!-- skill:A -->\none\n<!-- skill:X -->\n\n<!-- skill:A -->\nthree": p.Detach(b),
		"  Base": p.DetachAll(),
	} {
		if got.String() != named.Replace(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := p.Detach(gone).String(); got != before || p.String() != before {
		t.Errorf("a prompt that was left alone is %q", got)
	}
}

func TestPromptsThatShareBlocksDoNotChangeEachOther(t *testing.T) {
	t.Parallel()
	p := parse("Base").Attach(a, "one").Attach(b, "two").Attach("c", "three")
	first, second := p.Attach("d", "first"), p.Attach("d", "second")
	if first.Blocks[3].Text != "first" || second.Blocks[3].Text != "second" {
		t.Errorf("%+v\n%+v", first, second)
	}
}

func TestMarkersNamesEveryCandidateOnce(t *testing.T) {
	t.Parallel()
	got := skill.Markers(named.Replace("<!-- skill:X -->\n<!-- skill:B -->\nx\n<!-- skill:X --> \n<!-- skill:x -->\n <!-- skill:A -->"))
	if !slices.Equal(got, []string{gone, b}) {
		t.Errorf("got %v", got)
	}
}

func TestAContentWithAMarkerLineIsNoticed(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]bool{
		"<!-- skill:A -->":             true,
		"x\n<!-- skill:X --> \r\ny":    true,
		"x\n<!-- skill:<id> -->":       true,
		" \u2003<!-- skill:A -->\nx":   true,
		"\n\n  <!-- skill:A -->\u2003": true,
		"x\n  <!-- skill:A -->\nx":     false,
		"write <!-- skill:A -->":       false,
		"<!-- skill: -->":              false,
		"<!-- skill:a b -->":           false,
		"":                             false,
	} {
		if got := skill.HasMarker(named.Replace(content)); got != want {
			t.Errorf("%q: %v", content, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "Base", "Base\n\n<!-- skill:A -->\none\n\n<!-- skill:B -->\ntwo", "<!-- skill:A -->\r\n", "<!-- skill:X -->\n<!-- skill:A -->",
		"x\n<!-- skill:A -->\u2003\n\n <!-- skill:B -->\n", "<!-- skill:A -->\n<!-- skill:A -->", "\xff<!-- skill:A -->\x00\n\u0085", "\n\v<!-- skill:B -->\n\v\n y",
	} {
		f.Add(named.Replace(seed), "content")
		f.Add("Base", named.Replace(seed))
	}
	f.Fuzz(func(t *testing.T, text, content string) {
		p := parse(text)
		canonical := p.String()
		if again := parse(canonical); !reflect.DeepEqual(again, p) || again.String() != canonical {
			t.Fatalf("%q comes back from %q as %q", p, canonical, again)
		}
		if skill.Parse(text, func(string) bool { return false }).Base != strings.TrimRightFunc(text, unicode.IsSpace) {
			t.Fatalf("%q is changed although no skill exists", text)
		}
		for _, id := range p.IDs() {
			if !slices.Contains(skill.Markers(text), id) {
				t.Fatalf("%s has a block and is no candidate", id)
			}
		}
		if skill.HasMarker(content) {
			return
		}
		if len(skill.Markers(content)) > 0 {
			t.Fatalf("content %q has a marker that was not noticed", content)
		}
		without := p.Detach(b)
		attached := without.Attach(b, content)
		if again := parse(attached.String()); !reflect.DeepEqual(again, attached) || again.Blocks[len(again.Blocks)-1].Text != strings.TrimSpace(content) {
			t.Fatalf("attached, %q is %+v", attached, again)
		}
		if got := parse(attached.String()).Detach(b).String(); got != without.String() {
			t.Fatalf("attached and detached, %q is %q", without, got)
		}
	})
}
