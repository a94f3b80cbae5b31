package feed_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func dial(t *testing.T, addr, secret string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), "ws://"+addr+feed.Path, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + secret}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

func TestWithoutTheSecretNobodyIsToldAnything(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	s.Open(key("s1", 1), egress.Session{Policy: compile(t, policy.Spec{})})
	for name, field := range map[string]string{"none": "", "another": "Bearer other", "as basic": "Basic " + secret, "longer": "Bearer " + secret + "x"} {
		_, res, err := websocket.Dial(t.Context(), "ws://"+s.addr+feed.Path, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {field}}})
		if err == nil || res == nil || res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := startReplica(t, echo(t), "another-secret-altogether", s.addr)
	p := compile(t, policy.Spec{})
	for range 20 {
		if got := r.status(t, "a.example", credential(key("s1", 1), p, time.Hour)); got != http.StatusProxyAuthRequired {
			t.Fatalf("got %d", got)
		}
	}
	if n, attempts := r.Counts(); n != 0 || attempts != 0 || r.IsReady() || s.Replicas() != 0 {
		t.Errorf("it is connected: %d, %d", n, attempts)
	}
}

const goodHello = `{"type":"hello","protocol":1,"replica":"evil"}`

func TestAReplicaThatTalksNonsenseIsCutOffAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	r := startReplica(t, echo(t), secret, s.addr)
	p, k := compile(t, policy.Spec{}), key("s1", 1)
	s.Open(k, egress.Session{Policy: p})
	c, b := r.tunnel(t, "a.example", credential(k, p, time.Hour))
	record := func(with string) string {
		return goodHello + "\n" + `{"type":"decisions","records":[{"number":1,"id":1,"session":"s1","attempt":1,"time":"2026-01-01T00:00:00Z","addr":"",` + with + `}]}`
	}
	for name, said := range map[string]string{
		"no JSON": "x", "no hello": `{"type":"decisions"}`, "another protocol": `{"type":"hello","protocol":2,"replica":"evil"}`,
		"an odd name": `{"type":"hello","protocol":1,"replica":"../x"}`, "no name": `{"type":"hello","protocol":1}`,
		"unknown type": goodHello + "\n" + `{"type":"open"}`, "second hello": goodHello + "\n" + goodHello,
		"oversized":         goodHello + "\n" + strings.Repeat("x", 2<<20),
		"a long host":       record(`"host":"` + strings.Repeat("h", 1000) + `"`),
		"negative bytes":    record(`"host":"h","sent":-1`),
		"an odd session":    strings.Replace(record(`"host":"h"`), `"s1"`, `"s/1"`, 1),
		"many records":      goodHello + "\n" + `{"type":"decisions","records":[` + strings.Repeat(`{},`, 256) + `{}]}`,
		"many holds":        goodHello + "\n" + `{"type":"holds","holds":[` + strings.Repeat(`{},`, 1000) + `{}]}`,
		"an odd hold":       goodHello + "\n" + `{"type":"holds","holds":[{"session":"","attempt":1}]}`,
		"odd progress":      strings.Replace(record(`"host":"h","received":-1`), "decisions", "progress", 1),
		"numbers too large": goodHello + "\n" + `{"type":"decisions","lost":1e99}`,
	} {
		evil := dial(t, s.addr, secret)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for line := range strings.SplitSeq(said, "\n") {
			if evil.Write(ctx, websocket.MessageText, []byte(line)) != nil {
				break
			}
		}
		for {
			_, text, err := evil.Read(ctx)
			if ctx.Err() != nil {
				t.Errorf("%s: it is not cut off", name)
			}
			if err != nil {
				break
			}
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s: the server says the secret", name)
			}
		}
		cancel()
	}
	binary := dial(t, s.addr, secret)
	_ = binary.Write(t.Context(), websocket.MessageBinary, []byte(goodHello))
	if _, _, err := binary.Read(t.Context()); err == nil {
		t.Error("binary: it is not cut off")
	}
	eventually(t, "only the other replica is left", func() bool { return s.Replicas() == 1 })
	if !answers(c, b) || len(s.Recent(k)) != 1 {
		t.Errorf("the other replica suffers: %d records", len(s.Recent(k)))
	}
}

func TestThoseWhoSayNothingOrStopInTheMiddleAreCutOff(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", true)
	silent := dial(t, s.addr, secret)
	mute := dial(t, s.addr, secret) // reads nothing, not even pings
	if err := mute.Write(t.Context(), websocket.MessageText, []byte(goodHello)); err != nil {
		t.Fatal(err)
	}
	half, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	fmt.Fprintf(half, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nAuthorization: Bearer %s\r\n\r\n\x81\xfe\x40\x00abcdxxx", feed.Path, secret) // 3 bytes of 16 KiB
	eventually(t, "the mute one is there", func() bool { return s.Replicas() == 1 })
	for name, wait := range map[string]func() error{
		"silent": func() error { _, _, err := silent.Read(t.Context()); return err },
		"half": func() error {
			_ = half.SetDeadline(time.Now().Add(patience))
			_, err := io.Copy(io.Discard, half)
			return err
		},
	} {
		begun := time.Now()
		if err := wait(); time.Since(begun) > patience-time.Second {
			t.Errorf("%s: it is not cut off: %v", name, err)
		}
	}
	eventually(t, "the mute one is cut off", func() bool { return s.Replicas() == 0 })
}

func FuzzNoMessageOfAReplicaIsTakenThatIsNotSound(f *testing.F) {
	f.Add(true, []byte(goodHello))
	f.Add(true, []byte(`{"type":"decisions","records":[{"number":1,"id":7,"session":"s","attempt":1,"time":"2026-01-01T00:00:00Z","method":"GET","host":"h","port":443,"addr":"1.2.3.4","decision":{"allowed":true,"rule":"public","reason":"r"},"open":true}],"lost":3,"again":true}`))
	f.Add(true, []byte(`{"type":"policy","hash":"x","spec":{"routes":["h:1"],"allow_out":["a.b"],"observe":true}}`))
	f.Add(false, []byte(`{}`))
	f.Fuzz(func(t *testing.T, isText bool, b []byte) {
		records, spec, err := feed.Parse(isText, b)
		if err != nil {
			return
		}
		if !isText || len(records) > 256 {
			t.Fatal("taken")
		}
		for _, r := range records {
			if len(r.Host) > 300 || len(r.Method) > 32 || r.Session == "" || strings.ContainsAny(r.Session, "/. \n\x00") || r.Sent < 0 {
				t.Fatalf("taken: %+v", r)
			}
		}
		if spec == nil {
			return
		}
		p, err := policy.New(*spec)
		if err != nil {
			return
		}
		again, err := policy.New(p.Spec())
		if err != nil || again.Hash() != p.Hash() {
			t.Fatalf("the spelling %+v of a policy makes another: %v", p.Spec(), err)
		}
	})
}
