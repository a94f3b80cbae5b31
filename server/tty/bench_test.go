package tty_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/creack/pty"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	echoes = 500
	flood  = 32 << 20 // bytes
)

// keyboard types at a program and reads what it shows.
type keyboard interface {
	types(text string)
	reads() []byte
}

type bare struct {
	b testing.TB
	f *os.File
}

func (p bare) types(text string) {
	if _, err := p.f.WriteString(text); err != nil {
		p.b.Fatal(err)
	}
}

func (p bare) reads() []byte {
	buf := make([]byte, 32<<10)
	n, err := p.f.Read(buf)
	if err != nil {
		p.b.Fatal(err)
	}
	return buf[:n]
}

type attached struct{ v *viewer }

func (a attached) types(text string) { a.v.types(text) }

func (a attached) reads() []byte {
	for {
		typ, b, err := a.v.ws.Read(context.Background())
		if err != nil {
			a.v.t.Fatal(err)
		}
		if typ == websocket.MessageBinary {
			return b
		}
	}
}

// BenchmarkTerminal measures a key's way to the program and back, and the speed of output, on a bare PTY and through the API, the
// server's connection to sandboxd, and sandboxd, in turns. Run it with -benchtime=1x.
func BenchmarkTerminal(b *testing.B) {
	for b.Loop() {
		program := exec.Command("/bin/sh", "-i")
		program.Env = []string{"PS1=> ", "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color"}
		f, err := pty.StartWithSize(program, &pty.Winsize{Cols: 100, Rows: 30})
		if err != nil {
			b.Fatal(err)
		}
		s := start(b)
		sess := s.open(client.AgentCreate{}, client.SessionCreate{})
		v := s.attach(sess.ID, "", "")
		v.sees("> ")
		for _, way := range []struct {
			name string
			k    keyboard
		}{{"bare", bare{b, f}}, {"attached", attached{v}}} {
			took := measureEchoes(way.k)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, way.name+"-echo-p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, way.name+"-echo-p99-ms")
			b.ReportMetric(measureFlood(way.k)/(1<<20), way.name+"-MiB/s")
		}
		_ = f.Close()
		_ = program.Process.Kill()
		_ = program.Wait()
	}
}

func measureEchoes(k keyboard) (took []time.Duration) {
	k.types("cat\r")
	until(k, "cat\r\n")
	for i := range echoes {
		key := string(rune('a' + i%26))
		begun := time.Now()
		k.types(key)
		until(k, key)
		took = append(took, time.Since(begun))
	}
	k.types("\x03")
	until(k, "> ")
	slices.Sort(took)
	return took
}

func until(k keyboard, text string) {
	for seen := ""; !strings.Contains(seen, text); {
		seen += string(k.reads())
	}
}

// measureFlood returns the bytes per second that arrive of long output.
func measureFlood(k keyboard) float64 {
	k.types(fmt.Sprintf("yes 0123456789012345678901234567890123456789 | head -c %d; echo; echo fin$((1))\r", flood))
	begun, n, tail := time.Now(), 0, ""
	for !strings.Contains(tail, "fin1") {
		b := k.reads()
		n += len(b)
		tail = tail[max(0, len(tail)-16):] + string(b)
	}
	return float64(n) / time.Since(begun).Seconds()
}
