package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	logMax    = 64 << 20 // a log that has grown past this is cut
	logKept   = 1 << 20  // to its last so many bytes
	logFollow = 100 * time.Millisecond
	wordsRead = 4 << 10
)

// Logs implements sandbox.Runtime. Since counts by the time in sandboxd's own lines; a line without one belongs to the line
// before it.
func (r *Runtime) Logs(ctx context.Context, id sandbox.ID, o sandbox.LogOptions) (io.ReadCloser, error) {
	b, err := r.box(id)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, logFile), os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // deleted in the meantime
		return nil, fmt.Errorf("sandbox %q: %w", id, sandbox.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("logs of sandbox %s: %w", id, err)
	}
	at, err := firstLine(f, o, time.Now())
	if err == nil {
		_, err = f.Seek(at, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("logs of sandbox %s: %w", id, errors.Join(err, f.Close()))
	}
	ctx, cancel := context.WithCancel(ctx)
	return &logReader{b: b, f: f, at: at, follow: o.Follow, ctx: ctx, cancel: cancel}, nil
}

// logReader is the log from a place on. Read and Close may be called at the same time; ctx is that of the one read-out.
type logReader struct {
	b      *box
	f      *os.File
	at     int64
	follow bool
	ctx    context.Context
	cancel context.CancelFunc
}

func (l *logReader) Read(p []byte) (int, error) {
	for {
		ended := l.b.status().State == sandbox.Exited
		n, err := l.f.Read(p)
		l.at += int64(n)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		if !l.follow || ended || l.ctx.Err() != nil || l.b.r.ctx.Err() != nil {
			return 0, io.EOF
		}
		pause(l.ctx, logFollow)
		if info, err := l.f.Stat(); err == nil && info.Size() < l.at { // it was cut
			l.at, err = l.f.Seek(0, io.SeekStart)
			if err != nil {
				return 0, err
			}
		}
	}
}

func (l *logReader) Close() error {
	l.cancel()
	return l.f.Close()
}

// firstLine returns where the lines begin that the options ask for.
func firstLine(f *os.File, o sandbox.LogOptions, now time.Time) (int64, error) {
	if o.Since <= 0 && o.Tail <= 0 {
		return 0, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, 2*logMax))
	if err != nil {
		return 0, err
	}
	at := 0
	if o.Since > 0 {
		at = sinceLine(text, now.Add(-o.Since))
	}
	if o.Tail > 0 {
		at = max(at, tailLine(text, o.Tail))
	}
	return int64(at), nil
}

// sinceLine returns where the first line begins whose time is not before from.
func sinceLine(text []byte, from time.Time) int {
	at := 0
	for at < len(text) {
		line, _, _ := bytes.Cut(text[at:], []byte("\n"))
		var stamp struct {
			Time time.Time `json:"time"`
		}
		if bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &stamp) == nil && !stamp.Time.Before(from) {
			return at
		}
		at = min(at+len(line)+1, len(text))
	}
	return at
}

// tailLine returns where the last n lines begin.
func tailLine(text []byte, n int) int {
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; n > 0; n-- {
		at = bytes.LastIndexByte(text[:at], '\n')
		if at < 0 {
			return 0
		}
	}
	return at + 1
}

// trimLog cuts a log that has grown too long to its last part. What is written in the same instant may be lost.
func trimLog(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= logMax {
		return err
	}
	kept := make([]byte, logKept)
	n, err := f.ReadAt(kept, info.Size()-logKept)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, rest, _ := bytes.Cut(kept[:n], []byte("\n"))
	_, err = f.Write(append([]byte("(older lines were removed)\n"), rest...))
	return err
}

// lastWords returns the end of a log as the end of a sentence, empty if there is none.
func lastWords(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > wordsRead {
		_, _ = f.Seek(-wordsRead, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, wordsRead))
	if s := strings.TrimSpace(string(text[tailLine(text, 3):])); s != "" {
		return ": " + clip(s)
	}
	return ""
}
