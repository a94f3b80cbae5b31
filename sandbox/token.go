package sandbox

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// TokenHeader is the HTTP header in which callers of sandboxd present their token.
const TokenHeader = "X-Sandbox-Token"

// ErrToken is returned, wrapped with the cause, for every token that is refused.
var ErrToken = errors.New("sandbox: token refused")

const (
	tokenVersion = "v1"
	tokenDomain  = "lap-sandbox-v1\x00" // keeps signatures of other kinds of tokens from counting here
	maxToken     = 1024                 // bytes; a real one has about 250
	tokenSkew    = 30 * time.Second     // clocks of platform and sandbox may differ by this much
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

var tokenEncoding = base64.RawURLEncoding.Strict()

// SignToken returns a token of the form v1.claims.signature, both parts in unpadded base64url. The signature covers a prefix that
// only this kind of token has, and the bytes of the claims. An expiry that is not a whole second is rounded down.
func SignToken(key ed25519.PrivateKey, c Claims) string {
	claims, err := json.Marshal(wireClaims{Audience: c.Audience, IssuedAt: c.IssuedAt.Unix(), Expires: c.Expires.Unix()})
	if err != nil {
		panic(err) // a struct of a string and two integers always marshals
	}
	sig := ed25519.Sign(key, append([]byte(tokenDomain), claims...))
	return tokenVersion + "." + tokenEncoding.EncodeToString(claims) + "." + tokenEncoding.EncodeToString(sig)
}

// VerifyToken returns nil if the token was signed by the owner of pub, is for aud and is valid now, give or take 30 seconds.
// Any other token, of whatever form, is an error that wraps ErrToken.
func VerifyToken(pub ed25519.PublicKey, token string, aud ID, now time.Time) error {
	_, err := OpenToken(pub, token, aud, now)
	return err
}

// OpenToken is VerifyToken for callers that need the claims, to cache a token until it expires.
func OpenToken(pub ed25519.PublicKey, token string, aud ID, now time.Time) (Claims, error) {
	c, err := openToken(pub, token)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if err := c.check(aud, now); err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return c, nil
}

func openToken(pub ed25519.PublicKey, token string) (Claims, error) {
	if len(pub) != ed25519.PublicKeySize {
		return Claims{}, errors.New("no usable key to verify it with")
	}
	if len(token) > maxToken {
		return Claims{}, errors.New("too long")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != tokenVersion {
		return Claims{}, errors.New("not of the form v1.claims.signature")
	}
	claims, err := decodePart(parts[1])
	if err != nil {
		return Claims{}, err
	}
	sig, err := decodePart(parts[2])
	if err != nil {
		return Claims{}, err
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(pub, append([]byte(tokenDomain), claims...), sig) {
		return Claims{}, errors.New("wrong signature")
	}
	var w wireClaims
	if err := json.Unmarshal(claims, &w); err != nil {
		return Claims{}, errors.New("claims are not readable")
	}
	return Claims{Audience: w.Audience, IssuedAt: time.Unix(w.IssuedAt, 0), Expires: time.Unix(w.Expires, 0)}, nil
}

// decodePart accepts exactly one spelling of the bytes: the decoder alone would skip line breaks.
func decodePart(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64url")
	}
	b, err := tokenEncoding.DecodeString(s)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	return b, nil
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
