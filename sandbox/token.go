package sandbox

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/signed"
)

// TokenHeader is the HTTP header in which callers of sandboxd present their token.
const TokenHeader = "X-Sandbox-Token"

// ErrToken is returned, wrapped with the cause, for every token that is refused.
var ErrToken = errors.New("sandbox: token refused")

const (
	tokenDomain = "lap-sandbox-v1" // keeps signatures of other kinds of tokens from counting here
	tokenSkew   = 30 * time.Second // clocks of platform and sandbox may differ by this much
)

// Claims is what a token says. Times have a resolution of one second.
type Claims struct {
	Audience ID // the one sandbox that accepts it
	IssuedAt time.Time
	Expires  time.Time
}

type wireClaims struct {
	Audience ID    `json:"aud"`
	IssuedAt int64 `json:"iat"`
	Expires  int64 `json:"exp"`
}

// SignToken returns a token in the form of package signed. An expiry that is not a whole second is rounded down.
func SignToken(key ed25519.PrivateKey, c Claims) string {
	return signed.Sign(key, tokenDomain, wireClaims{Audience: c.Audience, IssuedAt: c.IssuedAt.Unix(), Expires: c.Expires.Unix()})
}

// VerifyToken returns nil if the token was signed by the owner of pub, is for aud and is valid now, give or take 30 seconds.
// Any other token, of whatever form, is an error that wraps ErrToken.
func VerifyToken(pub ed25519.PublicKey, token string, aud ID, now time.Time) error {
	_, err := OpenToken(pub, token, aud, now)
	return err
}

// OpenToken is VerifyToken for callers that need the claims, to cache a token until it expires.
func OpenToken(pub ed25519.PublicKey, token string, aud ID, now time.Time) (Claims, error) {
	var w wireClaims
	if err := signed.Open(pub, tokenDomain, token, &w); err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	c := Claims{Audience: w.Audience, IssuedAt: time.Unix(w.IssuedAt, 0), Expires: time.Unix(w.Expires, 0)}
	if err := c.check(aud, now); err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return c, nil
}

func (c Claims) check(aud ID, now time.Time) error {
	switch {
	case aud == "" || c.Audience != aud:
		return errors.New("for another sandbox")
	case !c.Expires.After(c.IssuedAt):
		return errors.New("expires before it was issued")
	case now.Add(tokenSkew).Before(c.IssuedAt):
		return errors.New("not valid yet")
	case !now.Add(-tokenSkew).Before(c.Expires):
		return errors.New("expired")
	}
	return nil
}
