package egress

import (
	"crypto/ed25519"
	"errors"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/signed"
)

const (
	credentialDomain = "lap-egress-v1"  // keeps signatures of other kinds of tokens from counting here
	credentialSkew   = 30 * time.Second // clocks of platform and proxy may differ by this much
)

// Key names one attempt of one session: what a policy is fixed for.
type Key struct {
	Session string
	Attempt int
}

// Claims is what a credential says. Times have a resolution of one second.
type Claims struct {
	Key
	Policy   string // hash of the policy that holds
	IssuedAt time.Time
	Expires  time.Time
}

type wireClaims struct {
	Session  string `json:"sid"`
	Attempt  int    `json:"att"`
	Policy   string `json:"pol"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// SignCredential returns a credential in the form of package signed.
func SignCredential(key ed25519.PrivateKey, c Claims) string {
	return signed.Sign(key, credentialDomain, wireClaims{c.Session, c.Attempt, c.Policy, c.IssuedAt.Unix(), c.Expires.Unix()})
}

// OpenCredential returns the claims of a credential that the owner of pub signed and that is valid now, give or take 30 seconds.
func OpenCredential(pub ed25519.PublicKey, credential string, now time.Time) (Claims, error) {
	var w wireClaims
	if err := signed.Open(pub, credentialDomain, credential, &w); err != nil {
		return Claims{}, err
	}
	c := Claims{Key{w.Session, w.Attempt}, w.Policy, time.Unix(w.IssuedAt, 0), time.Unix(w.Expires, 0)}
	switch {
	case c.Session == "" || c.Policy == "":
		return Claims{}, errors.New("for no session")
	case !c.Expires.After(c.IssuedAt):
		return Claims{}, errors.New("expires before it was issued")
	case now.Add(credentialSkew).Before(c.IssuedAt):
		return Claims{}, errors.New("not valid yet")
	case !now.Add(-credentialSkew).Before(c.Expires):
		return Claims{}, errors.New("expired")
	}
	return c, nil
}
