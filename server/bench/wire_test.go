package bench_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

const masterKey = "bench-master-key-0123456789"

// request returns the bytes of a request.
func request(method, path, body string, header ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: bench\r\n", method, path)
	for _, h := range append(header, "Authorization: Bearer "+masterKey) {
		fmt.Fprintf(&b, "%s\r\n", h)
		if h == wrongKey {
			break
		}
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	fmt.Fprintf(&b, "\r\n%s", body)
	return b.Bytes()
}

const wrongKey = "Authorization: Bearer wrong"

// wire is a connection that costs as little as HTTP can, for client and server share the processors.
type wire struct {
	net.Conn
	in *bufio.Reader
}

func dial(addr string) (*wire, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{c, bufio.NewReaderSize(c, 64<<10)}, nil
}

// do sends a request and drops the body of its answer.
func (w *wire) do(request []byte) (status int, err error) {
	if _, err := w.Write(request); err != nil {
		return 0, err
	}
	line, err := w.in.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return 0, errors.Join(err, errors.New("no answer"))
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length, chunked := 0, false
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) == 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
	}
	if chunked {
		return status, w.dropChunks()
	}
	_, err = w.in.Discard(length)
	return status, err
}

func (w *wire) dropChunks() error {
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return err
		}
		if _, err := w.in.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// load is what clients do: each of them sends its requests in turn.
type load struct {
	conns   int
	status  int
	request func(client, n int) []byte
}

// run sends requests for a time and returns how long each took.
func (l load) run(t testing.TB, addr string, d time.Duration) []time.Duration {
	t.Helper()
	var (
		mu   sync.Mutex // guards all
		all  []time.Duration
		wait sync.WaitGroup
	)
	end := time.Now().Add(d)
	for client := range l.conns {
		wait.Go(func() {
			took, err := l.client(addr, client, end)
			if err != nil {
				t.Errorf("client %d after %d requests: %v", client, len(took), err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wait.Wait()
	if t.Failed() || len(all) == 0 {
		t.Fatalf("%d requests", len(all))
	}
	slices.Sort(all)
	return all
}

func (l load) client(addr string, client int, end time.Time) (took []time.Duration, err error) {
	w, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	for n := 0; ; n++ {
		begun := time.Now()
		if n > 0 && begun.After(end) {
			return took, nil
		}
		status, err := w.do(l.request(client, n))
		if err != nil {
			return took, err
		}
		if status != l.status {
			return took, fmt.Errorf("status %d", status)
		}
		took = append(took, time.Since(begun))
	}
}

// once sends a request by the usual client and returns the body of the answer.
func once(t testing.TB, addr string, request []byte) []byte {
	t.Helper()
	w, err := dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	return body
}
