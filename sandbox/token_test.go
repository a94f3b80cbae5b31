package sandbox_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

var (
	tokenKey = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	tokenPub = tokenKey.Public().(ed25519.PublicKey)
	issued   = time.Unix(1_800_000_000, 0)
)

func claims() sandbox.Claims {
	return sandbox.Claims{Audience: "box-1", IssuedAt: issued, Expires: issued.Add(time.Minute)}
}

func TestTokenIsAcceptedByItsAudienceWhileItIsValid(t *testing.T) {
	t.Parallel()
	token := sandbox.SignToken(tokenKey, claims())
	for _, now := range []time.Duration{-30 * time.Second, 0, time.Minute, 89 * time.Second} {
		if err := sandbox.VerifyToken(tokenPub, token, "box-1", issued.Add(now)); err != nil {
			t.Errorf("%v after it was issued: %v", now, err)
		}
	}
	got, err := sandbox.OpenToken(tokenPub, token, "box-1", issued)
	if err != nil || got.Audience != "box-1" || !got.Expires.Equal(issued.Add(time.Minute)) || !got.IssuedAt.Equal(issued) {
		t.Errorf("got claims %+v, %v", got, err)
	}
}

func TestTokenIsRefusedForEveryOtherReason(t *testing.T) {
	t.Parallel()
	good := sandbox.SignToken(tokenKey, claims())
	other := ed25519.NewKeyFromSeed([]byte("fedcba9876543210fedcba9876543210"))
	part := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		t.Fatal(err)
	}
	noDomain := base64.RawURLEncoding.EncodeToString(ed25519.Sign(tokenKey, payload))
	otherDomain := base64.RawURLEncoding.EncodeToString(ed25519.Sign(tokenKey, append([]byte("lap-tty-v1\x00"), payload...)))
	never := claims()
	never.Expires = never.IssuedAt
	unnamed := claims()
	unnamed.Audience = ""
	tests := []struct {
		name  string
		token string
		aud   sandbox.ID
		pub   ed25519.PublicKey
		after time.Duration
		want  string
	}{
		{"another audience", good, "box-2", tokenPub, 0, "for another sandbox"},
		{"no audience", sandbox.SignToken(tokenKey, unnamed), "", tokenPub, 0, "for another sandbox"},
		{"expired", good, "box-1", tokenPub, 90 * time.Second, "expired"},
		{"not valid yet", good, "box-1", tokenPub, -31 * time.Second, "not valid yet"},
		{"never valid", sandbox.SignToken(tokenKey, never), "box-1", tokenPub, 0, "expires before"},
		{"another key", good, "box-1", other.Public().(ed25519.PublicKey), 0, "wrong signature"},
		{"no key", good, "box-1", nil, 0, "no usable key"},
		{"empty", "", "box-1", tokenPub, 0, "not of the form"},
		{"another version", "v2." + part[1] + "." + part[2], "box-1", tokenPub, 0, "not of the form"},
		{"a fourth part", good + ".", "box-1", tokenPub, 0, "not of the form"},
		{"padding", good + "=", "box-1", tokenPub, 0, "not base64url"},
		{"a line break", "v1." + part[1] + "\n." + part[2], "box-1", tokenPub, 0, "not base64url"},
		{"no signature", "v1." + part[1] + ".", "box-1", tokenPub, 0, "wrong signature"},
		{"a signature without the domain", "v1." + part[1] + "." + noDomain, "box-1", tokenPub, 0, "wrong signature"},
		{"a signature of another kind of token", "v1." + part[1] + "." + otherDomain, "box-1", tokenPub, 0, "wrong signature"},
		{"too long", good + strings.Repeat("A", 1024), "box-1", tokenPub, 0, "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := sandbox.VerifyToken(tt.pub, tt.token, tt.aud, issued.Add(tt.after))
			if !errors.Is(err, sandbox.ErrToken) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a refusal with %q", err, tt.want)
			}
		})
	}
}

func TestEverySingleByteOfATokenCounts(t *testing.T) {
	t.Parallel()
	good := sandbox.SignToken(tokenKey, claims())
	for i := range good {
		for _, c := range []byte{'A', 'B', '_', '.', 0, 0xff} {
			bad := good[:i] + string(rune(c)) + good[i+1:]
			if bad != good && sandbox.VerifyToken(tokenPub, bad, "box-1", issued) == nil {
				t.Fatalf("accepted with byte %d changed to %q", i, c)
			}
		}
	}
}

func FuzzVerifyTokenAcceptsOnlyWhatWasSigned(f *testing.F) {
	good := sandbox.SignToken(tokenKey, claims())
	part := strings.Split(good, ".")
	for _, seed := range []string{
		good, "", ".", "..", "v1..", "v1." + part[1] + ".", "v1.." + part[2], "v1." + part[2] + "." + part[1], good + "\n", " " + good,
		good + "=", strings.ToUpper(good), "v1.bnVsbA." + part[2], "v1.e30." + part[2], strings.Repeat(".", 2000), part[1] + "." + part[2],
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if err := sandbox.VerifyToken(tokenPub, token, "box-1", issued); err == nil && token != good {
			t.Errorf("accepted %q", token)
		}
	})
}
