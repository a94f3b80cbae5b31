package session_test

import (
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const tokenSession = "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a"

// signer is a service with these encryption keys.
func signer(t testing.TB, st *store.Store, keys string) *session.Service {
	t.Helper()
	k, err := store.NewKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	s := session.NewService(session.Options{Store: st, Keyring: k})
	t.Cleanup(s.Close)
	return s
}

func TestATerminalTokenIsGoodForItsSessionAndTwelveHours(t *testing.T) {
	t.Parallel()
	st := storetest.Open(t, storetest.KindSQLite)
	s := signer(t, st, "the-first-key-0123456789")
	at := time.Unix(1_800_000_000, 999)
	token := s.TerminalToken(tokenSession, at)
	for name, tt := range map[string]struct {
		token, session string
		after          time.Duration
		ok             bool
	}{
		"at once":               {token, tokenSession, 0, true},
		"a moment before":       {token, tokenSession, 12*time.Hour - time.Second, true},
		"at its end":            {token, tokenSession, 12 * time.Hour, false},
		"long after":            {token, tokenSession, 1000 * time.Hour, false},
		"another session":       {token, strings.Replace(tokenSession, "9111", "9112", 1), 0, false},
		"no session":            {s.TerminalToken("", at), "", 0, false},
		"no token":              {"", tokenSession, 0, false},
		"of another kind":       {"v1" + strings.TrimPrefix(token, "tty1"), tokenSession, 0, false},
		"without its signature": {token[:strings.LastIndex(token, ".")+1], tokenSession, 0, false},
		"too long":              {token + strings.Repeat("A", 512), tokenSession, 0, false},
		"with another part":     {token + ".", tokenSession, 0, false},
	} {
		if got := s.AcceptsTerminalToken(tt.token, tt.session, at.Add(tt.after)); got != tt.ok {
			t.Errorf("%s: %v", name, got)
		}
	}
	if len(token) > 200 || strings.ContainsAny(token, "+/=&?% ") {
		t.Errorf("a token is %d bytes: %s", len(token), token)
	}
}

func TestServersWithTheSameKeysTakeEachOthersTokensThroughARotation(t *testing.T) {
	t.Parallel()
	st := storetest.Open(t, storetest.KindSQLite)
	const old, next = "the-first-key-0123456789", "the-next-key-9876543210"
	before, during, after := signer(t, st, old), signer(t, st, next+","+old), signer(t, st, next)
	now := time.Now()
	for name, tt := range map[string]struct {
		by, at *session.Service
		ok     bool
	}{
		"same key":                  {before, signer(t, st, old), true},
		"old key, still listed":     {before, during, true},
		"new key":                   {during, after, true},
		"old key, not listed":       {before, after, false},
		"new key, not listed there": {during, before, false},
	} {
		if got := tt.at.AcceptsTerminalToken(tt.by.TerminalToken(tokenSession, now), tokenSession, now); got != tt.ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzOnlyATokenAsItWasMadeIsAccepted(f *testing.F) {
	st := storetest.Open(f, storetest.KindSQLite)
	s := signer(f, st, "the-first-key-0123456789")
	at := time.Unix(1_800_000_000, 0)
	token := s.TerminalToken(tokenSession, at)
	f.Add(token)
	f.Add(strings.Replace(token, ".", ".\n", 1))
	f.Add(token[:len(token)-1] + "B")
	f.Add(token + "=")
	f.Add("tty1..")
	f.Add("tty1.e30.")
	f.Add("tty1.bnVsbA.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if s.AcceptsTerminalToken(text, tokenSession, at) != (text == token) {
			t.Errorf("%q", text)
		}
	})
}

func TestEveryChangeOfATokenIsNoticed(t *testing.T) {
	t.Parallel()
	s := signer(t, storetest.Open(t, storetest.KindSQLite), "the-first-key-0123456789")
	at := time.Unix(1_800_000_000, 0)
	token := s.TerminalToken(tokenSession, at)
	for i := range token {
		for _, b := range []byte("A.Z_\n=") {
			if token[i] == b {
				continue
			}
			if changed := token[:i] + string(b) + token[i+1:]; s.AcceptsTerminalToken(changed, tokenSession, at) {
				t.Errorf("accepted with byte %d changed", i)
			}
		}
		if s.AcceptsTerminalToken(token[:i], tokenSession, at) || s.AcceptsTerminalToken(token[i:], tokenSession, at) && i > 0 {
			t.Errorf("accepted when cut at %d", i)
		}
	}
}
