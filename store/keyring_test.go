package store_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
)

const (
	oldKey = "old-key-0123456789abcdef-0123456789"
	newKey = "new-key-0123456789abcdef-0123456789"
)

func keyring(t *testing.T, list string) *store.Keyring {
	t.Helper()
	k, err := store.NewKeyring(list)
	check(t, err)
	return k
}

func TestKeyringOpensWhatItSealedAfterARotation(t *testing.T) {
	t.Parallel()
	before, after := keyring(t, oldKey), keyring(t, newKey+" , "+oldKey)
	sealed := before.Seal([]byte("secret"), []byte("ad"))
	plain, err := after.Open(sealed, []byte("ad"))
	check(t, err)
	if string(plain) != "secret" {
		t.Fatalf("got %q", plain)
	}
	if _, err := before.Open(after.Seal([]byte("secret"), nil), nil); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Fatalf("a value sealed by an unknown key: %v", err)
	}
}

func TestKeyringRefusesWhatIsNotAuthentic(t *testing.T) {
	t.Parallel()
	k := keyring(t, oldKey)
	sealed := k.Seal([]byte("secret"), []byte("agent-1"))
	if _, err := k.Open(sealed, []byte("agent-2")); err == nil {
		t.Fatal("opened with other associated data")
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Open(bad, []byte("agent-1")); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
		if _, err := k.Open(sealed[:i], []byte("agent-1")); err == nil {
			t.Fatalf("opened when cut to %d bytes", i)
		}
	}
}

func TestKeyringSealsTheSameValueDifferentlyEachTime(t *testing.T) {
	t.Parallel()
	k := keyring(t, oldKey)
	if bytes.Equal(k.Seal([]byte("v"), nil), k.Seal([]byte("v"), nil)) {
		t.Fatal("equal")
	}
}

func TestKeyringDerivesStableKeysPerLabelAndKey(t *testing.T) {
	t.Parallel()
	before, after := keyring(t, oldKey), keyring(t, newKey+","+oldKey)
	id, key := before.Derive("sandbox")
	again, ok := after.DeriveFor(id, "sandbox")
	if !ok || again != key {
		t.Fatal("the key is not found again after a rotation")
	}
	newID, first := after.Derive("sandbox")
	other, _ := after.DeriveFor(id, "tty")
	if newID == id || first == key || other == key {
		t.Fatal("keys of other masters or labels are equal")
	}
	for _, unknown := range []string{"", "zz", "00000000", newID} {
		if _, ok := before.DeriveFor(unknown, "sandbox"); ok {
			t.Fatalf("derived from key %q", unknown)
		}
	}
}

func TestKeyringRefusesBadListsWithoutNamingKeys(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"", "short", oldKey + ",", oldKey + ",short-one", oldKey + "," + oldKey} {
		_, err := store.NewKeyring(list)
		if err == nil {
			t.Fatalf("accepted %q", list)
		}
		if strings.Contains(err.Error(), "old-key") || strings.Contains(err.Error(), "short-one") {
			t.Fatalf("the error names a key: %v", err)
		}
	}
}

func TestKeyringRecognisesDataByItsDigest(t *testing.T) {
	t.Parallel()
	before, after := keyring(t, oldKey), keyring(t, newKey+","+oldKey)
	digest := before.Digest("label", []byte("data"))
	for _, k := range []*store.Keyring{before, after} {
		if !k.SameDigest(digest, "label", []byte("data")) {
			t.Error("not recognised")
		}
		if k.SameDigest(digest, "label", []byte("date")) || k.SameDigest(digest, "other", []byte("data")) {
			t.Error("other data or another label recognised")
		}
		for i := range digest {
			bad := bytes.Clone(digest)
			bad[i] ^= 1
			if k.SameDigest(bad, "label", []byte("data")) || k.SameDigest(digest[:i], "label", []byte("data")) {
				t.Errorf("recognised with byte %d changed, or cut there", i)
			}
		}
	}
	if keyring(t, newKey).SameDigest(digest, "label", []byte("data")) {
		t.Error("recognised without the key")
	}
	if bytes.Equal(digest, after.Digest("label", []byte("data"))) || bytes.Equal(digest, keyring(t, oldKey).Digest("l", []byte("abeldata"))) {
		t.Error("keys or labels share digests")
	}
}
