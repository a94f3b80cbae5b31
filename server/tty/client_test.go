package tty_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// line is a TCP port in front of a server, whose connections can be cut.
type line struct {
	l    net.Listener
	done sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func newLine(t *testing.T, target string) *line {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &line{l: l}
	p.done.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				p.done.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); p.cut(); p.done.Wait() })
	return p
}

func (p *line) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func TestTheGoClientAttachesAndComesBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.open(client.AgentCreate{}, client.SessionCreate{}).ID
	p := newLine(t, strings.TrimPrefix(s.url, "http://"))
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	a, err := client.New(client.Options{URL: "http://" + p.l.Addr().String(), Key: masterKey, HTTPClient: &http.Client{Transport: base}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	lost := 0
	x, err := a.Attach(ctx, id, client.AttachOptions{Cols: 91, Rows: 23, Lost: func(error) { lost++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	types := func(text string) {
		if _, err := io.WriteString(x, text); err != nil {
			t.Errorf("type %q: %v", text, err)
		}
	}
	// Each is typed when what comes before was seen; the shell shows more than it was told.
	steps := []struct {
		see string
		do  func()
	}{
		{"> ", func() { types("stty size; echo $((40+2))\r") }},
		{"23 91", func() {}},
		{"42", p.cut},
		{"42", func() { types("echo $((50+1)); exit 5\r") }}, // painted anew
		{"51", func() {}},
	}
	seen := ""
	for output, err := range x.Output(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		seen += string(output)
		for len(steps) > 0 {
			_, rest, ok := strings.Cut(shown(seen), steps[0].see)
			if !ok {
				break
			}
			seen = rest
			do := steps[0].do
			steps = steps[1:]
			do()
		}
	}
	if code, ended := x.ExitCode(); !ended || code != 5 || lost != 1 || len(steps) != 0 {
		t.Errorf("exit code %d, %t, lost %d times, %d steps left, at last %q", code, ended, lost, len(steps), seen)
	}
}
