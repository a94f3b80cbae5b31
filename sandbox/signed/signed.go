// Package signed writes and reads short signed claims of the form v1.claims.signature, in unpadded base64url. It owns that form
// alone: what claims mean, for whom and for how long, is their owner's. Everything here is safe for concurrent use.
package signed

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

const (
	version  = "v1"
	maxToken = 1024 // bytes; a real one has about 300
)

var encoding = base64.RawURLEncoding.Strict()

// Sign returns the claims, a struct that always marshals, signed with the key. The signature covers a prefix, the domain, that only
// this kind of claims has, so that no other kind can pass for it.
func Sign(key ed25519.PrivateKey, domain string, claims any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	sig := ed25519.Sign(key, append([]byte(domain+"\x00"), payload...))
	return version + "." + encoding.EncodeToString(payload) + "." + encoding.EncodeToString(sig)
}

// Open reads the claims of a token that the owner of pub signed for the domain. Any other token, of whatever form, is an error that
// holds nothing of it.
func Open(pub ed25519.PublicKey, domain, token string, claims any) error {
	if len(pub) != ed25519.PublicKeySize {
		return errors.New("no usable key to verify it with")
	}
	if len(token) > maxToken {
		return errors.New("too long")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != version {
		return errors.New("not of the form v1.claims.signature")
	}
	payload, err := decode(parts[1])
	if err != nil {
		return err
	}
	sig, err := decode(parts[2])
	if err != nil {
		return err
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(pub, append([]byte(domain+"\x00"), payload...), sig) {
		return errors.New("wrong signature")
	}
	if json.Unmarshal(payload, claims) != nil {
		return errors.New("claims are not readable")
	}
	return nil
}

// decode accepts exactly one spelling of the bytes: the decoder alone would skip line breaks.
func decode(s string) ([]byte, error) {
	b, err := encoding.DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64url")
	}
	return b, nil
}
