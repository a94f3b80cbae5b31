package api

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/store"
)

func FuzzCursorsAreReadOnlyAsTheyWereWritten(f *testing.F) {
	const id = "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
	f.Add("", int64(1732356000000), id, "", "")
	f.Add("eyJ0IjoxNzMyMzU2MDAwMDAwfQ", int64(0), id, "name asc", "1<😀\u2028>")
	f.Add("bnVsbA", int64(-1), "x", "sessions desc", "12")
	f.Add("e30=", int64(1)<<62, id, "name desc", "\xff")
	f.Add("eyJ0IjoxLCJpIjoiMDE5MzJjMDctOGYzZS03YzRhLTliMWQtMmY2ZjVmMGY1YjExIn0", int64(9e18), strings.ToUpper(id), "\x00", "\x00")
	f.Fuzz(func(t *testing.T, text string, ms int64, id, order, value string) {
		if key, ok := decodeCursor(text); ok {
			if again := encodeCursor(&key).MustGet(); again != text {
				t.Errorf("%q is %+v, which is %q", text, key, again)
			}
		}
		key := store.Key{CreatedAt: time.UnixMilli(ms).UTC(), ID: id, Order: order, Value: value}
		got, ok := decodeCursor(encodeCursor(&key).MustGet())
		want := ms >= 0 && checkUUID(id) == nil && utf8.ValidString(order+value)
		if ok != want || ok && got != key {
			t.Errorf("%+v is read as %+v, %v", key, got, ok)
		}
	})
}

func FuzzIfMatchIsReadAsTheStandardSays(f *testing.F) {
	for _, s := range []string{"*", `"1"`, `"1", "2"`, `W/"1"`, `w/"1"`, "1", `"`, `"a"b"`, `,"1",`, ",", "", ` * `, `*,"1"`, `"a b"`, `"1""2"`, "\t\"\xff\"\t", `"\"`, `W/"1",W/ "2"`} {
		f.Add(s)
	}
	const tag = `(W/)?"[!\x23-\x7e\x{80}-\x{ff}]*"`
	list := regexp.MustCompile(`^[ \t]*(,[ \t]*)*` + tag + `([ \t]*(,[ \t]*)+` + tag + `)*[ \t]*(,[ \t]*)*$`)
	f.Fuzz(func(t *testing.T, s string) {
		// Bytes stand for themselves, as characters of the same number.
		latin := make([]rune, len(s))
		for i := range len(s) {
			latin[i] = rune(s[i])
		}
		tags, ok := parseMatch(s)
		star := strings.Trim(s, " \t") == "*"
		if want := star || list.MatchString(string(latin)); ok != want {
			t.Fatalf("%q: %q, %v", s, tags, ok)
		}
		var want []string
		if star {
			want = []string{"*"}
		} else if ok {
			for _, m := range regexp.MustCompile(`(?:^|[, \t])("[^"]*")`).FindAllStringSubmatch(s, -1) {
				want = append(want, m[1])
			}
		}
		if ok && !slices.Equal(tags, want) {
			t.Errorf("%q: %q, want %q", s, tags, want)
		}
	})
}

func FuzzPreferIsAListOfPreferences(f *testing.F) {
	for _, s := range []string{"respond-async", "wait=5, Respond-Async", "respond-async; x=1", "x-respond-async", "respond-async=1", "", ",", "wait,respond-async,", "respond-asyncx", " respond-async\t"} {
		f.Add(s)
	}
	asked := regexp.MustCompile(`(?i)(^|,) *respond-async *(;[^,]*)?(,|$)`)
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsAny(s, "\"=") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // what has a value is another preference
		}
		if got := wantsAsync(&s); got != asked.MatchString(s) {
			t.Errorf("%q: %v", s, got)
		}
	})
}
