package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"golang.org/x/term"
)

const (
	prompt  = "> "
	keyStop = 0x03 // Ctrl-C
	maxLine = 4096 // of the library's editor; it drops what is typed beyond
)

var errTooLong = errors.New("a line has more characters than can be typed here, so nothing was sent; use lap attach <session> < file")

// editor reads messages that a person types or pastes. The terminal is raw while it reads and as it was otherwise, so that Ctrl-C
// is a signal while an answer comes.
type editor struct {
	s     *shell
	tty   *tty
	line  *term.Terminal
	input *stopReader
}

func newEditor(s *shell, t *tty) *editor {
	e := &editor{s: s, tty: t}
	e.fresh(nil)
	return e
}

// fresh is needed after Ctrl-C, which the library's editor keeps in its input.
func (e *editor) fresh(history term.History) {
	out := e.s.out
	if !isTerminal(out) {
		out = e.s.err
	}
	e.input = &stopReader{Reader: e.s.in}
	e.line = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{e.input, out}, prompt)
	if history != nil {
		e.line.History = history
	}
}

// read returns a message; io.EOF after Ctrl-D, errInterrupted after Ctrl-C. What was pasted may have several lines.
func (e *editor) read(ctx context.Context) (string, error) {
	type input struct {
		text string
		err  error
	}
	if err := e.tty.raw(); err != nil {
		return "", err
	}
	defer e.tty.cooked()
	_ = e.line.SetSize(e.tty.size())
	e.line.SetBracketedPasteMode(true)
	defer e.line.SetBracketedPasteMode(false)
	got := make(chan input, 1)
	go func() {
		defer e.tty.guard()
		text, err := e.message()
		got <- input{text, err}
	}()
	select {
	case in := <-got:
		return in.text, in.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (e *editor) message() (string, error) {
	var lines []string
	for {
		line, err := e.line.ReadLine()
		if len([]rune(line)) >= maxLine {
			return "", errTooLong
		}
		switch {
		case errors.Is(err, term.ErrPasteIndicator):
			lines = append(lines, line)
		case err != nil && e.input.stopped:
			_, _ = io.WriteString(e.s.err, "\r\n")
			e.fresh(e.line.History)
			return "", errInterrupted
		case err != nil:
			_, _ = io.WriteString(e.s.err, "\r\n")
			return "", io.EOF
		default:
			return strings.Join(append(lines, line), "\n"), nil
		}
	}
}

// stopReader notes whether Ctrl-C came last.
type stopReader struct {
	io.Reader
	stopped bool
}

func (r *stopReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.stopped = bytes.IndexByte(p[:n], keyStop) >= 0
	return n, err
}
