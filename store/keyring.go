package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	minKeyText    = 16 // characters of one key of the list
	sealedVersion = 1
	keyIDSize     = 4
	nonceSize     = 12
	headerSize    = 1 + keyIDSize
)

// ErrSealed means that a value was sealed with a key that the ring does not hold,
// or is damaged.
var ErrSealed = errors.New("sealed value cannot be opened")

// Keyring seals values and derives keys from the platform's encryption keys.
// The first key seals; all of them open, so a key is rotated by putting a new
// one in front. It is immutable and safe for concurrent use.
type Keyring struct {
	keys []ringKey
}

type ringKey struct {
	id     [keyIDSize]byte
	master []byte
	aead   cipher.AEAD
}

// NewKeyring reads a comma-separated list of keys. A key is any text of at
// least 16 characters; surrounding space is ignored. No error names a key's
// text.
func NewKeyring(list string) (*Keyring, error) {
	k := &Keyring{}
	for i, text := range strings.Split(list, ",") {
		text = strings.TrimSpace(text)
		if len(text) < minKeyText {
			return nil, fmt.Errorf("encryption key %d: shorter than %d characters", i+1, minKeyText)
		}
		key, err := newRingKey(text)
		if err != nil {
			return nil, fmt.Errorf("encryption key %d: %w", i+1, err)
		}
		if _, ok := k.find(key.id[:]); ok {
			return nil, fmt.Errorf("encryption key %d: listed twice", i+1)
		}
		k.keys = append(k.keys, key)
	}
	return k, nil
}

func newRingKey(text string) (ringKey, error) {
	master, err := hkdf.Extract(sha256.New, []byte(text), []byte("lap-keyring-v1"))
	if err != nil {
		return ringKey{}, err
	}
	key := ringKey{master: master}
	id := key.derive("key id")
	copy(key.id[:], id[:])
	seal := key.derive("seal")
	block, err := aes.NewCipher(seal[:])
	if err != nil {
		return ringKey{}, err
	}
	key.aead, err = cipher.NewGCM(block)
	return key, err
}

func (r ringKey) derive(label string) (key [32]byte) {
	out, err := hkdf.Expand(sha256.New, r.master, label, len(key))
	if err != nil {
		panic(err) // only for a length this function never asks for
	}
	copy(key[:], out)
	return key
}

func (k *Keyring) find(id []byte) (ringKey, bool) {
	for _, key := range k.keys {
		if string(key.id[:]) == string(id) {
			return key, true
		}
	}
	return ringKey{}, false
}

// Seal encrypts plain with AES-256-GCM under the first key. The result opens
// only with the same ad.
func (k *Keyring) Seal(plain, ad []byte) []byte {
	key := k.keys[0]
	out := make([]byte, headerSize+nonceSize, headerSize+nonceSize+len(plain)+key.aead.Overhead())
	out[0] = sealedVersion
	copy(out[1:], key.id[:])
	nonce := out[headerSize:]
	rand.Read(nonce) // never fails
	return key.aead.Seal(out, nonce, plain, sealedAD(out[:headerSize], ad))
}

// header is what everything begins with that Seal makes.
func (k *Keyring) header() []byte { return append([]byte{sealedVersion}, k.keys[0].id[:]...) }

// Open decrypts what Seal made with any key of the ring.
func (k *Keyring) Open(sealed, ad []byte) ([]byte, error) {
	if len(sealed) < headerSize+nonceSize || sealed[0] != sealedVersion {
		return nil, fmt.Errorf("%w: unknown format", ErrSealed)
	}
	key, ok := k.find(sealed[1:headerSize])
	if !ok {
		return nil, fmt.Errorf("%w: no key %x in the ring", ErrSealed, sealed[1:headerSize])
	}
	nonce, text := sealed[headerSize:headerSize+nonceSize], sealed[headerSize+nonceSize:]
	plain, err := key.aead.Open(nil, nonce, text, sealedAD(sealed[:headerSize], ad))
	if err != nil {
		return nil, fmt.Errorf("%w: not authentic", ErrSealed)
	}
	return plain, nil
}

func sealedAD(header, ad []byte) []byte {
	return append(append(make([]byte, 0, len(header)+len(ad)), header...), ad...)
}

// Derive makes a key for another purpose from the first key. Different labels
// give independent keys. keyID finds the same key again after a rotation.
func (k *Keyring) Derive(label string) (keyID string, key [32]byte) {
	first := k.keys[0]
	return hex.EncodeToString(first.id[:]), first.derive("derive:" + label)
}

// DeriveFor is Derive from the key with this id; ok is false when the ring does
// not hold it.
func (k *Keyring) DeriveFor(keyID, label string) (key [32]byte, ok bool) {
	id, err := hex.DecodeString(keyID)
	if err != nil {
		return key, false
	}
	found, ok := k.find(id)
	if !ok {
		return key, false
	}
	return found.derive("derive:" + label), true
}

// Digest is kept in place of data, to recognise it again: the id of the first
// key and an HMAC under it, for data may be guessable. Different labels give
// independent digests.
func (k *Keyring) Digest(label string, data []byte) []byte { return k.keys[0].digest(label, data) }

// SameDigest reports whether digest is of these data, under whichever key of the
// ring it was made.
func (k *Keyring) SameDigest(digest []byte, label string, data []byte) bool {
	if len(digest) < keyIDSize {
		return false
	}
	key, ok := k.find(digest[:keyIDSize])
	return ok && hmac.Equal(digest, key.digest(label, data))
}

func (r ringKey) digest(label string, data []byte) []byte {
	key := r.derive("digest:" + label)
	mac := hmac.New(sha256.New, key[:])
	mac.Write(data)
	return mac.Sum(append([]byte(nil), r.id[:]...))
}

// IDs names the keys of the ring in their order, without telling anything of
// their texts.
func (k *Keyring) IDs() []string {
	ids := make([]string, len(k.keys))
	for i, key := range k.keys {
		ids[i] = hex.EncodeToString(key.id[:])
	}
	return ids
}
