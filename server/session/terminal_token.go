package session

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

const (
	terminalTokenTTL   = 12 * time.Hour
	terminalTokenKind  = "tty1"
	terminalTokenLabel = "terminal-token"
	maxTerminalToken   = 512 // bytes; a real one has about 190
)

// terminalClaims is what a terminal token says: for which session until when, and with which encryption key it was made.
type terminalClaims struct {
	Key     string `json:"k"`
	Session string `json:"s"`
	Expires int64  `json:"e"` // s since 1970
}

var terminalTokenEncoding = base64.RawURLEncoding.Strict()

// TerminalToken returns a token for the terminal of one session: tty1.claims.mac, both parts in unpadded base64url.
func (s *Service) TerminalToken(sessionID string, now time.Time) string {
	id, key := s.o.Keyring.Derive(terminalTokenLabel)
	claims, err := json.Marshal(terminalClaims{Key: id, Session: sessionID, Expires: now.Add(terminalTokenTTL).Unix()})
	if err != nil {
		panic(err) // two strings and a number always marshal
	}
	return terminalTokenKind + "." + terminalTokenEncoding.EncodeToString(claims) + "." +
		terminalTokenEncoding.EncodeToString(terminalMAC(key, claims))
}

// terminalMAC covers a prefix that nothing else begins with which this key might sign.
func terminalMAC(key [32]byte, claims []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("lap-tty-v1\x00"))
	mac.Write(claims)
	return mac.Sum(nil)
}

// AcceptsTerminalToken tells whether a token was made for the terminal of this session, with any key of the ring, and has not
// expired. It knows nothing of the session.
func (s *Service) AcceptsTerminalToken(token, sessionID string, now time.Time) bool {
	if len(token) > maxTerminalToken {
		return false
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != terminalTokenKind {
		return false
	}
	claims, ok := decodeTokenPart(parts[1])
	mac, ok2 := decodeTokenPart(parts[2])
	var c terminalClaims
	if !ok || !ok2 || json.Unmarshal(claims, &c) != nil {
		return false
	}
	if again, err := json.Marshal(c); err != nil || !bytes.Equal(again, claims) {
		return false // there is one spelling
	}
	key, ok := s.o.Keyring.DeriveFor(c.Key, terminalTokenLabel)
	return ok && hmac.Equal(mac, terminalMAC(key, claims)) && sessionID != "" && c.Session == sessionID && now.Unix() < c.Expires
}

// decodeTokenPart accepts one spelling of the bytes: the decoder alone would skip line breaks.
func decodeTokenPart(s string) ([]byte, bool) {
	b, err := terminalTokenEncoding.DecodeString(s)
	return b, err == nil && !strings.ContainsAny(s, "\r\n")
}
