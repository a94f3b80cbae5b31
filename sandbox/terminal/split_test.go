package terminal_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

func TestQuestionsAreAnsweredAndNobodyElseHearsThem(t *testing.T) {
	t.Parallel()
	for question, want := range map[string]string{
		"\x1b[c":                            "\x1b[?62;1;6;22c",
		"\x1b[0c":                           "\x1b[?62;1;6;22c",
		"\x1bZ":                             "\x1b[?62;1;6;22c",
		"\x1b[>c":                           "\x1b[>1;10;0c",
		"\x1b[=c":                           "",
		"\x1b[5n":                           "\x1b[0n",
		"\x1b[3;4Habc\x1b[6n":               "\x1b[3;7R",
		"\x1b[3;4H\x1b[?6n":                 "\x1b[?3;4;1R",
		"\x1b[?996n":                        "",
		"\x1b[?2004h\x1b[?2004$p":           "\x1b[?2004;1$y",
		"\x1b[?2026$p":                      "\x1b[?2026;2$y",
		"\x1b[?7$p":                         "\x1b[?7;1$y",
		"\x1b[?1049h\x1b[?1049$p":           "\x1b[?1049;1$y",
		"\x1b[?1234$p":                      "\x1b[?1234;0$y",
		"\x1b[4$p":                          "\x1b[4;0$y",
		"\x1b]11;?\x07":                     "\x1b]11;rgb:0000/0000/0000\x1b\\",
		"\x1b]10;?\x1b\\":                   "\x1b]10;rgb:ffff/ffff/ffff\x1b\\",
		"\x1b]4;1;?\x07":                    "",
		"\x1b]52;c;?\x07":                   "",
		"\x1b[?u":                           "",
		"\x1b[>q":                           "",
		"\x1b[>0q":                          "",
		"\x1b[18t":                          "",
		"\x1b[x":                            "",
		"\x1b[?2;1;0S":                      "",
		"\x1b[?4m":                          "",
		"\x1b[1$w":                          "",
		"\x1b[1;1;1;1;9;9*y":                "",
		"\x1b[5;9r\x1b[?6h\x1b[2;2H\x1b[6n": "\x1b[2;2R",
		"\x1bP+q544e\x1b\\":                 "",
		"\x1bP$qm\x1b\\":                    "",
		"\x1b_Gi=31,s=1,v=1,a=q;AAAA\x1b\\": "",
	} {
		m := terminal.NewModel(terminal.DefaultSize)
		at := strings.LastIndexByte(strings.TrimSuffix(question, "\x1b\\"), 0x1b)
		answers, shown := m.Write([]byte("before" + question + "after"))
		m.Write([]byte("\r"))
		if string(answers) != want {
			t.Errorf("%q is answered with %q", question, answers)
		}
		if string(shown) != "before"+question[:at]+"after" {
			t.Errorf("%q: clients see %q", question, shown)
		}
	}
}

func TestWhatIsNoQuestionReachesTheClients(t *testing.T) {
	t.Parallel()
	for _, said := range []string{
		"\x1b[>4;2m", "\x1b[>4n", "\x1b[2 q", "\x1b[>7u", "\x1b[<u", "\x1b[u", "\x1b[!p", "\x1b[22;0t", "\x1b[8;30;100t", "\x1b[?1;2c", "\x1b]52;c;aGk=\x07",
		"\x1b]11;#123456\x07", "\x1b]0;what?\x07", "\x1b]0;?\x07", "\x1bPq#0\x1b\\", "\x1b_Ga=T;AAAA\x1b\\", "\x1b\x1b[m", "\x1b[1\x1b[m", "\x1b[\x18n", "é\x1b7", "\x1b[2S", "\x1b[m",
	} {
		m := terminal.NewModel(terminal.DefaultSize)
		answers, shown := m.Write([]byte(said + "."))
		if len(answers) > 0 || string(shown) != said+"." {
			t.Errorf("%q: answered with %q, clients see %q", said, answers, shown)
		}
	}
}

func TestAStringWithoutAnEndCostsLittleAndIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"\x07", "\x1b\\", "\x18", "\x1b[1m"} {
		m := terminal.NewModel(terminal.DefaultSize)
		var seen []byte
		write := func(s string) {
			_, shown := m.Write([]byte(s))
			seen = append(seen, shown...)
		}
		write("before\x1b]0;")
		for range 4 * terminal.MaxString / 4000 {
			write(strings.Repeat("x", 4000))
		}
		for i := range end {
			write(end[i : i+1])
		}
		write("after")
		if want := "beforeafter"; string(bytes.ReplaceAll(seen, []byte("\x1b[1m"), nil)) != want {
			t.Errorf("ended by %q: clients see %d bytes: %.80q", end, len(seen), seen)
		}
		if got := strings.TrimRight(m.Text(), "\n"); got != "beforeafter" {
			t.Errorf("ended by %q: the screen is %q", end, got)
		}
	}
}

func TestTheScreenIsWhatATerminalShows(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		"aaaa\r\nbbbb\r\ncccc\x1b[2;2H\x1b[1J|":                             "| |bb|cccc",
		"1\r\n2\r\n3\r\n4\r\n5\x1b[2;4r\x1b[3;3H\x1b[LX":                    "1|2|X|3|5",
		"1\r\n2\r\n3\r\n4\r\n5\x1b[2;4r\x1b[3;3H\x1b[MX":                    "1|2|X||5",
		"\x1b[5;5H\x1b[sx\x1b[uy":                                           "||||    y",
		"main\x1b[?47halt\x1b[?47l.":                                        "main   .",
		"\x1b]0;✳ Claude Code\x07half":                                      "half",
		strings.Repeat("x", 99) + "你y":                                      strings.Repeat("x", 99) + "|你y",
		strings.Repeat("你", 50) + "y":                                       strings.Repeat("你", 50) + "|y",
		strings.Repeat("你", 50) + "\ry":                                     "y " + strings.Repeat("你", 49),
		"\x1b[?7l" + strings.Repeat("x", 99) + "你y":                         strings.Repeat("x", 99) + "y",
		"\x1b[2;9r\x1b[?6hx":                                                "|x",
		"a\x1bEb":                                                           "a|b",
		"a\x1b[44m\x1b[3Jb":                                                 "ab",
		"你好\x1b[2GX":                                                        " X好",
		"你好\x1b[2G你x":                                                       " 你x",
		"你好ab\x1b[2G\x1b[P":                                                 " 好ab",
		"你好ab\x1b[3G\x1b[P":                                                 "你 ab",
		"你你\x1b[H\x1b[@":                                                    " 你你",
		strings.Repeat("你", 50) + "\x1b[H\x1b[@x":                           "x" + strings.Repeat("你", 49),
		"\x1b[5;5H\x1b7\x1b[H" + strings.Repeat("x", 100) + "\x1b8y":        strings.Repeat("x", 100) + "||||    y",
		"\x1b[5;5H\x1b7\x1b[H" + strings.Repeat("x", 99) + "\x1b[?7l\x1b8y": strings.Repeat("x", 99) + "||||    y",
		strings.Repeat("你", 50) + "\x1b(B\x1b[m\x07y":                       strings.Repeat("你", 50) + "|y",
		strings.Repeat("x", 100) + "\x1b[3Jy":                               strings.Repeat("x", 100) + "|y",
		strings.Repeat("x", 100) + "\x1b[?7ly":                              strings.Repeat("x", 99) + "y",
		"\x1b(0q\x1b7\x1b(Bq\x1b8q":                                         "──",
		"\x1b)0q\x0eq\x0fq":                                                 "q─q",
		"abc\x1b[?1048h\x1b[5;5Hx\x1b[?1048ly":                              "abcy||||    x",
		"abc\x1b[?1049hx\x1b[?1049ly":                                       "abcy",
		"\x1b)0\x0e\x1b7\x0fq\x1b8q":                                        "─",
		"abc\x1b[?1049hx":                                                   "   x",
		"abc\x1b[H\x1b[4hx\x1b[4ly":                                         "xybc",
		"a\x1b[20h\nb\x1b[20l\nc":                                           "a|b| c",
		"你\x1b[2bx":                                                         "你你你x",
		"a\x1b[m\x1b[2bx":                                                   "ax",
		"1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[?6h\x1b[2;2Hx\ry\x1b[1;5fz":          "1|2   z|yx|4",
		"1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[4;1H\x1b[2Cx\x1b[Ly":                 "1|2|3|4 xy",
		"ab\x1b[0Cc\x1b[2;4Hd\x1b[0Dx\x1b[0Ay":                              "ab cy|   x",
		"\x1b[3;3Ha\x1b[!pb":                                                "||  ab",
		"\x1b[2;3r\x1b[?1049h\x1b[3;1Ha\nb":                                 "|a| b",
	} {
		m := terminal.NewModel(terminal.DefaultSize)
		m.Write([]byte(stream))
		if got := strings.ReplaceAll(strings.TrimRight(m.Text(), "\n"), "\n", "|"); got != want {
			t.Errorf("%q shows\n%s\nnot\n%s", stream, got, want)
		}
	}
}

func TestALineThatIsFullGoesOnInTheColumnsThatAWiderScreenHas(t *testing.T) {
	t.Parallel()
	for _, full := range []string{strings.Repeat("x", 100), strings.Repeat("你", 50)} {
		m := terminal.NewModel(terminal.DefaultSize)
		m.Write([]byte(full))
		m.Resize(terminal.Size{Cols: 120, Rows: 30})
		m.Write([]byte("y"))
		if got := strings.TrimRight(m.Text(), "\n"); got != full+"y" {
			t.Errorf("%q", got)
		}
	}
}

func TestMarksWithoutEndCostLittle(t *testing.T) {
	t.Parallel()
	m := terminal.NewModel(terminal.DefaultSize)
	m.Write([]byte("e" + strings.Repeat("\u0301", 10_000) + "x"))
	if got := strings.TrimRight(m.Text(), "\n"); len(got) > 100 || !strings.HasSuffix(got, "\u0301x") {
		t.Errorf("%d bytes: %.80q", len(got), got)
	}
}

// It is not parallel: it looks at the memory of the whole test.
func TestWhatHasLeftTheAlternateScreenIsNotKept(t *testing.T) {
	m := terminal.NewModel(terminal.DefaultSize)
	line := []byte(strings.Repeat("x", 100) + "\r\n")
	m.Write([]byte("\x1b[?1049h"))
	used := func() int64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before := used()
	for range 2000 {
		m.Write(line)
	}
	if more := used() - before; more > 4<<20 {
		t.Errorf("2000 lines take %d bytes", more)
	}
	runtime.KeepAlive(m)
}

func TestAnAnswerOfTheEmulatorWaitsForNobody(t *testing.T) {
	t.Parallel()
	m := terminal.NewModel(terminal.DefaultSize)
	m.Feed("\x1b[6n\x1b[c\x1b]11;?\x07")
	m.Write([]byte("more"))
	if got := strings.TrimRight(m.Text(), "\n"); got != "more" {
		t.Errorf("%q", got)
	}
}

func TestAFaultOfTheEmulatorCostsThePictureOnly(t *testing.T) {
	t.Parallel()
	m := terminal.NewModel(terminal.DefaultSize)
	m.Write([]byte("\x1b]0;title\x07\x1b[?2004h\x1b[?7l\x1b[?1049hbefore"))
	m.Break()
	m.Repaint()
	m.Write([]byte("\x1b[31mafter"))
	if got := strings.TrimRight(m.Text(), "\n"); got != "after" {
		t.Errorf("%q", got)
	}
	if last := m.Dump()[3030]; !strings.Contains(last, `alt true title "title"`) || !strings.Contains(last, `pen "\x1b[31m" modes  25 2004`) {
		t.Error(last)
	}
	repainted(t, m, terminal.DefaultSize)
}

func TestTheScreenKeepsItsTopLeftWhenItShrinks(t *testing.T) {
	t.Parallel()
	m := terminal.NewModel(terminal.DefaultSize)
	for n := range 30 {
		m.Write(fmt.Appendf(nil, "\x1b[%d;1Hline %d 你好", n+1, n))
	}
	small := terminal.Size{Cols: 8, Rows: 3}
	m.Resize(small)
	if got := m.Text(); got != "line 0\nline 1\nline 2" {
		t.Errorf("%q", got)
	}
	repainted(t, m, small)
	m.Write([]byte("\x1bc\x1b[1;7H你\x1b[?1049h"))
	m.Resize(terminal.Size{Cols: 7, Rows: 2})
	m.Resize(small)
	repainted(t, m, small)
	m.Resize(terminal.Size{Cols: 1, Rows: 1})
	m.Write([]byte("你x\r\n你"))
	repainted(t, m, terminal.Size{Cols: 1, Rows: 1})
}
