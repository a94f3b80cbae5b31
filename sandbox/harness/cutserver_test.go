package harness_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// cutter stands between opencode and its client. The event stream breaks before it brings the first of some texts; opened again,
// before it brings the next; after the last one it cannot be opened any more. The first message that says CUT THIS arrives, but
// its connection breaks.
type cutter struct {
	addr string

	mu         sync.Mutex // guards the two below
	cuts       []string
	cutMessage bool
}

// serveCut runs the real opencode, TEST_OPENCODE, behind a cutter with the texts TEST_CUTS, one a line.
func serveCut(args []string) int {
	cmd := exec.Command(os.Getenv("TEST_OPENCODE"), args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c := &cutter{cuts: strings.Split(os.Getenv("TEST_CUTS"), "\n")}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		_, addr, ok := strings.Cut(lines.Text(), "listening on http://")
		if !ok {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 1
		}
		c.addr = addr
		go c.accept(l)
		fmt.Println("opencode server listening on http://" + l.Addr().String())
	}
	if cmd.Wait() != nil {
		return 1
	}
	return 0
}

func (c *cutter) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.addr)
		if err != nil {
			client.Close()
			continue
		}
		go relay(server, client, c.request)
		go relay(client, server, c.answer)
	}
}

var errCut = errors.New("cut")

// What becomes of what comes through a connection.
const (
	pass = iota
	drop // and close
	last // pass it and close
)

// relay copies until judge ends it, and closes both ends.
func relay(to, from net.Conn, judge func([]byte) int) {
	defer to.Close()
	defer from.Close()
	_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
		verdict := judge(b)
		if verdict == drop {
			return 0, errCut
		}
		n, err := to.Write(b)
		if verdict == last {
			err = errCut
		}
		return n, err
	}), from)
}

func (c *cutter) request(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.cuts) == 0 && bytes.HasPrefix(b, []byte("GET /event ")):
		return drop
	case !c.cutMessage && bytes.HasPrefix(b, []byte("POST ")) && bytes.Contains(b, []byte("CUT THIS")):
		c.cutMessage = true
		return last
	}
	return pass
}

func (c *cutter) answer(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cuts) == 0 || !bytes.Contains(b, []byte("data: ")) || !bytes.Contains(b, []byte(c.cuts[0])) {
		return pass
	}
	c.cuts = c.cuts[1:]
	return drop
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
