package egress_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func FuzzARequestThatIsLetPassIsReadAlikeByOthers(f *testing.F) {
	var requests []struct{ Request string }
	readJSON(f, "testdata/requests.json", &requests)
	for _, q := range requests {
		f.Add([]byte(strings.ReplaceAll(q.Request, "{auth}", "Proxy-Authorization: Bearer x\r\n")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		method, host, port, raw, err := egress.ReadHead(b)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, raw) || !bytes.HasSuffix(raw, []byte("\r\n\r\n")) || bytes.Count(raw, []byte("\r\n\r\n")) != 1 {
			t.Fatalf("%q is no head", raw)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return // the server of the standard library refuses it later
		}
		defer r.Body.Close()
		other, otherPort, err := policy.ParseAuthority(r.Host, map[bool]uint16{true: 0, false: 80}[method == http.MethodConnect])
		if r.Method != method || err != nil || other != host || otherPort != port {
			t.Fatalf("%q: %s %v %d, but the standard library reads %s %q", raw, method, host, port, r.Method, r.Host)
		}
		if method != http.MethodConnect && r.URL.Host != r.Host {
			t.Fatalf("%q: URL for %q, Host %q", raw, r.URL.Host, r.Host)
		}
		lines := strings.Split(string(raw), "\r\n")
		lengths := slices.DeleteFunc(lines[1:], func(s string) bool {
			name, _, _ := strings.Cut(strings.ToLower(s), ":")
			return name != "content-length" && name != "transfer-encoding"
		})
		if len(lengths) > 1 || len(lengths) == 1 && method == http.MethodConnect {
			t.Fatalf("%q has lengths %q", raw, lengths)
		}
	})
}

// hello returns the first bytes of a TLS client.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(here, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	b := make([]byte, 4096)
	n, err := there.Read(b)
	there.Close()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func FuzzAServerNameIsReadOrTLSRefused(f *testing.F) {
	for _, name := range []string{"example.com", "", "a.b.c.example.org"} {
		f.Add(hello(f, name))
	}
	f.Add([]byte{0x16})
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, seen, err := egress.ServerName(b)
		if err != nil {
			if name != "" || seen != nil {
				t.Fatalf("%q and %d bytes with %v", name, len(seen), err)
			}
			return
		}
		if !bytes.HasPrefix(b, seen) || b[0] != 0x16 {
			t.Fatalf("%q is not what was read", seen)
		}
		if name != "" && !bytes.Contains(b, []byte(name)) && len(b) < 1<<14 && !fragmented(b) {
			t.Fatalf("%q is not in it", name)
		}
	})
}

// fragmented tells whether the first message of TLS is in several records.
func fragmented(b []byte) bool {
	if len(b) < 9 {
		return false
	}
	record, message := int(b[3])<<8|int(b[4]), int(b[6])<<16|int(b[7])<<8|int(b[8])
	return message+4 > record
}

func FuzzOnlySignedCredentialsCount(f *testing.F) {
	pub := signingKey.Public().(ed25519.PublicKey)
	now := time.Unix(1_800_000_000, 0)
	good := egress.SignCredential(signingKey, egress.Claims{Key: egress.Key{Session: "s", Attempt: 1}, Policy: "p", IssuedAt: now, Expires: now.Add(time.Minute)})
	for _, s := range []string{good, "", "v1..", strings.ToUpper(good), good + "\n", good[:len(good)-1], "v1.e30." + good[len(good)-86:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := egress.OpenCredential(pub, s, now); err == nil && s != good {
			t.Errorf("%q counts as %+v", s, c)
		}
	})
}
