package terminal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

// repainted compares a screen with what its picture makes of another one, at once and after more output.
func repainted(t *testing.T, m *terminal.Model, size terminal.Size) {
	t.Helper()
	picture := m.Repaint()
	other := terminal.NewModel(size)
	other.Write([]byte("\x1b[?1049h\x1b[?1000h\x1b[3;4r\x1b[31mleft from before"))
	answers, shown := other.Write(picture)
	if len(answers) > 0 || !bytes.Equal(shown, picture) {
		t.Errorf("the picture asks for %q", answers)
	}
	same(t, m, other, picture)
	for _, more := range []string{"q你\x1b[2b", "\x1b8x", "\x1b[?1049ly", "\x1b8z"} {
		m.Write([]byte(more))
		other.Write([]byte(more))
		same(t, m, other, picture)
	}
}

func same(t *testing.T, m, other *terminal.Model, picture []byte) {
	t.Helper()
	want, got := m.Dump(), other.Dump()
	bad := 0
	for i := range want {
		if want[i] != got[i] {
			if bad++; bad < 5 {
				t.Errorf("it was %s\nand is %s", want[i], got[i])
			}
		}
	}
	if bad > 0 {
		t.Fatalf("%d of %d cells differ; the screen was\n%s\npicture %q", bad, len(want)-1, m.Text(), picture)
	}
}

// streams are what programs write. The recordings are of claude 2.1.330 and codex 0.169.0.
func streams(t testing.TB) map[string]string {
	t.Helper()
	all := map[string]string{
		"nothing":          "",
		"plain":            "one\r\ntwo\r\n",
		"wide":             "你好 👍🏽 wörld e\u0301 x\r\n" + strings.Repeat("你", 60) + "|",
		"wide at the edge": strings.Repeat("x", 99) + "你y",
		"styles":           "\x1b[1;4:3;38;2;1;2;3;48;5;200mbold\x1b[0m \x1b[7mrev\x1b[27m\x1b[9;2;3mthree\x1b[m\x1b[58;5;3;4mline",
		"backgrounds":      "\x1b[44m\x1b[2J\x1b[10;10H\x1b[42m\x1b[K\x1b[mx\x1b[41m",
		"title":            "\x1b]0;✳ Claude Code\x07halfutypedd你",
		"title, ST":        "\x1b]2;你 \xff \x01 x\x1b\\text",
		"alternate screen": "main\x1b[?1049h\x1b[2J\x1b[5;5Halt\x1b[31m",
		"and back":         "main\x1b[?1049h\x1b[2J\x1b[5;5Halt\x1b[31m\x1b[?1049lmain again",
		"old alternate":    "main\x1b[?47h\x1b[Hx\x1b[?1047l",
		"modes":            "\x1b[?25l\x1b[?1000;1002;1003;1004;1006h\x1b[?2004h\x1b[?2031h\x1b[?7l\x1b[?1h\x1b=\x1b[?2026hx",
		"keys":             "\x1b[>7u\x1b[>1u\x1b[=5u\x1b[<1u\x1b[>4;2m\x1b[5 q",
		"region":           "1\r\n2\r\n3\r\n4\r\n5\x1b[2;4r\x1b[4;1H\n\n\x1b[L\x1b[3;3H\x1b[M",
		"origin":           "\x1b[5;10r\x1b[?6h\x1b[2;2Hx",
		"insert, delete":   "abcdefgh\x1b[1;3H\x1b[2@\x1b[1;7H\x1b[P\x1b[2X\x1b[3b",
		"erase above":      "aaaa\r\nbbbb\r\ncccc\x1b[2;2H\x1b[1J",
		"saved cursor":     "\x1b[5;5H\x1b[31m\x1b[s\x1b[m\x1b[1;1Hx\x1b[uy\x1b7\x1b[H\x1b8z",
		"line drawing":     "\x1b(0lqqk\x1b(B \x1b)0\x0eqq\x0fq\x0e",
		"links":            "\x1b]8;id=1;https://example.com/ä\x1b\\link\x1b]8;;\x1b\\ no link",
		"tabs":             "a\tb\tc\x1b[3g\td",
		"reset":            "\x1b[?1049h\x1b[31m\x1b[3;5r\x1b[?1000hx\x1bcy",
		"soft reset":       "\x1b[?25l\x1b[31m\x1b[3;5r\x1b[!px",
		"strings":          "\x1bPq#0;2;0;0;0\x1b\\a\x1b_Gf=100;AAAA\x1b\\b\x1b^pm\x07c\x1b\\d\x1bXsos\x1b\\e",
		"cut off":          "\x1b[12\x1b[31mred\x1b[1\x18x\x1b]0;title\x18y\x1b[" + strings.Repeat("1;", 300) + "mz",
		"numbers":          "\x1b[99999999999999b\x1b[99999bx\x1b[65535b\x1b[99999;99999Hy\x1b[65535A\x1b[65535@",
		"invalid":          "a\xffb\xc3(c\xe2\x9c\x9b\x9d\x90d\x80e",
		"full line":        strings.Repeat("x", 99) + "\x1b[31my\x1b[m\x1b(0",
		"full line, wide":  "\x1b[2;5r\x1b[?6h\x1b[2;1H" + strings.Repeat("你", 50),
		"saved, not back":  "\x1b[2;5r\x1b[?6h\x1b[3;4H\x1b[32m\x1b(0\x1b7\x1b[?6l\x1b[m\x1b(B\x1b[Hx",
		"saved, alternate": "\x1b[5;5H\x1b[31mmain\x1b[?1049h\x1b[m\x1b[7;7H\x1b7\x1b[Halt",
		"region, both":     "main\x1b[3;9r\x1b[?1049h\x1b[9;1H\n\nx",
		"open link":        "\x1b]8;id=1;https://example.com/a;b\x1b\\link",
		"insert, new line": "abc\x1b[4h\x1b[20h\x1b[H你\n",
		"half a wide one":  "你你你\x1b[2G你\x1b[3;99H你\x1b[3;1H\x1b[@\x1b[2;1H你你\x1b[2;2H\x1b[P",
		"marks only":       "\u0301\u200d\u200b\u2028x",
	}
	names, err := filepath.Glob("testdata/*.raw")
	if err != nil || len(names) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(name)] = string(b)
	}
	return all
}

func TestThePictureOfAScreenMakesTheSameScreen(t *testing.T) {
	t.Parallel()
	for name, stream := range streams(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := terminal.NewModel(terminal.DefaultSize)
			m.Write([]byte(stream))
			repainted(t, m, terminal.DefaultSize)
		})
	}
}

func TestAPictureRestoresWhatIsNotSeen(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		"\x1b=":                      "\x1b=",
		"\x1b[?1h\x1b[?25l":          "\x1b[?1h\x1b[?25l",
		"\x1b[?1000;1006h":           "\x1b[?1000h\x1b[?1006h",
		"\x1b[?7l":                   "\x1b[?7h\x1b[?7l",
		"\x1b[>5u\x1b[>1u\x1b[<u":    "\x1b[>5u",
		"\x1b[>4;2m":                 "\x1b[>4;2m",
		"\x1b[5 q":                   "\x1b[5 q",
		"\x1b[2;5r":                  "\x1b[2;5r",
		"\x1b[2;5r\x1b[?6h\x1b[2;2H": "\x1b[?6h\x1b[2;2H",
		"\x1b)0\x0e":                 "\x1b)0\x0e",
		"\x1b[4;20h":                 "\x1b[4h",
		"\x1b[20h":                   "\x1b[20h",
		"\x1b]2;title\x1b\\":         "\x1b]0;title\x07",
		"\x1b]8;;http://a\x1b\\":     "\x1b]8;;http://a\x1b\\",
		"\x1b[31m":                   "\x1b[31m\x1b[?2026l",
	} {
		m := terminal.NewModel(terminal.DefaultSize)
		m.Write([]byte(stream))
		if got := m.Repaint(); !bytes.Contains(got, []byte(want)) {
			t.Errorf("%q: no %q in %q", stream, want, got)
		}
	}
}

func TestOutputMayComeInAnyPieces(t *testing.T) {
	t.Parallel()
	for name, stream := range streams(t) {
		whole := terminal.NewModel(terminal.DefaultSize)
		answers, shown := whole.Write([]byte(stream))
		for _, size := range []int{1, 7, 4095} {
			cut := terminal.NewModel(terminal.DefaultSize)
			var a, s []byte
			for rest := []byte(stream); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				some, seen := cut.Write(rest[:min(size, len(rest))])
				a, s = append(a, some...), append(s, seen...)
			}
			if !bytes.Equal(a, answers) || !bytes.Equal(s, shown) {
				t.Errorf("%s in pieces of %d: clients or the program get something else", name, size)
			}
			if fmt.Sprint(cut.Dump()) != fmt.Sprint(whole.Dump()) {
				t.Errorf("%s in pieces of %d: another screen\n%s", name, size, cut.Text())
			}
		}
	}
}
