package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	maxLogLine  = 64 << 10
	maxLogChunk = 32 << 10
)

// LogOptions selects lines of a log.
type LogOptions struct {
	Since  time.Duration // 0: from the start
	Tail   int           // last lines; 0: all
	Follow bool          // goes on until the sandbox, ctx or the service ends
}

// Logs returns what a session's sandbox wrote, whole lines of valid UTF-8, secrets masked. The caller closes it. Errors:
// store.ErrNotFound, ErrNoSandbox.
func (s *Service) Logs(ctx context.Context, sessionID string, o LogOptions) (io.ReadCloser, error) {
	sess, err := s.o.Store.GetSession(ctx, sessionID)
	if err != nil {
		return nil, err
	}
	if sess.SandboxID == "" {
		return nil, ErrNoSandbox
	}
	clean, err := s.masking(ctx, sess)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	src, err := s.o.Runtime.Logs(ctx, sandbox.ID(sess.SandboxID), sandbox.LogOptions(o))
	if err != nil {
		cancel()
		if errors.Is(err, sandbox.ErrNotFound) {
			return nil, ErrNoSandbox
		}
		return nil, fmt.Errorf("read log of sandbox: %w", err)
	}
	l := &logReader{src: src, in: bufio.NewReaderSize(src, maxLogLine), clean: clean, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return l, nil
}

// logReader reads and cleans whole lines. Its goroutine ends the read-out when the service closes, and ends with Close.
type logReader struct {
	src    io.ReadCloser
	in     *bufio.Reader
	clean  func(string) string
	cancel context.CancelFunc
	done   chan struct{}

	rest []byte // read and not handed out
	err  error  // after rest
}

// Read returns as many lines as there are, up to its bounds, and waits only if there is none.
func (l *logReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		l.rest = l.rest[:0]
		l.fill()
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	if n == 0 && len(p) > 0 {
		return 0, l.err
	}
	return n, nil
}

func (l *logReader) fill() {
	for l.err == nil && len(l.rest) < maxLogChunk {
		var line []byte
		line, l.err = l.line()
		l.rest = append(l.rest, l.clean(string(bytes.ToValidUTF8(line, []byte("\uFFFD"))))...)
		if ahead, _ := l.in.Peek(l.in.Buffered()); bytes.IndexByte(ahead, '\n') < 0 {
			return
		}
	}
}

// line reads one line. Half of a long one could end in half of a secret, so nothing of it is shown.
func (l *logReader) line() ([]byte, error) {
	line, err := l.in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = l.in.ReadSlice('\n')
	}
	return fmt.Appendf(nil, "[a line of more than %d bytes is left out]\n", maxLogLine), err
}

// Close ends the read-out.
func (l *logReader) Close() error {
	l.cancel()
	<-l.done
	return l.src.Close()
}
