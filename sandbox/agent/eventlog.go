package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// Types of record that sandboxd itself writes.
const (
	typePhase         = "phase"
	typeReady         = "ready"
	typeFailed        = "failed"
	typeHarnessExited = "harness.exited"
	typeHarnessEvent  = "harness.event"
	typeTurnStarted   = "turn.started"
	typeTurnCompleted = "turn.completed"
	typeTurnFailed    = "turn.failed"
	typeTurnAborted   = "turn.aborted"
	typeDelta         = "message.delta"
)

// indexStep is how many records lie between two remembered offsets.
const indexStep = 64

// eventLog is the append-only file of records, numbered from 1 without gaps. Readers take the bytes from the file at their own
// pace; they never hold up append. Safe for concurrent use.
type eventLog struct {
	f *os.File

	mu      sync.Mutex // guards the fields below
	size    int64      // bytes of the records that readers may see
	n       int64
	index   []int64 // offset of record 1 + i*indexStep
	changed chan struct{}
	closed  bool
}

// openEventLog opens or makes the log in dir. What a killed sandboxd left half written at its end is cut off. It calls seen for
// every record that is there.
func openEventLog(dir string, seen func(sandboxd.Record)) (*eventLog, error) {
	f, err := os.OpenFile(filepath.Join(dir, "events.ndjson"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	l := &eventLog{f: f, changed: make(chan struct{})}
	err = l.load(seen)
	if err == nil {
		err = errors.Join(f.Truncate(l.size), f.Sync(), syncDir(dir))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open event log: %w", err), f.Close())
	}
	return l, nil
}

func (l *eventLog) load(seen func(sandboxd.Record)) error {
	r := bufio.NewReaderSize(l.f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var rec sandboxd.Record
		if json.Unmarshal(line, &rec) != nil || rec.N != l.n+1 {
			return nil
		}
		l.advance(int64(len(line)))
		seen(rec)
	}
}

// advance takes note of one more record of the given length.
func (l *eventLog) advance(length int64) {
	if l.n%indexStep == 0 {
		l.index = append(l.index, l.size)
	}
	l.n++
	l.size += length
}

var errLogClosed = errors.New("event log is closed")

// append writes one record. After an error the log is as if it had not been called. TurnID may be empty.
func (l *eventLog) append(typ, turnID string, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("append %s: %w", typ, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errLogClosed
	}
	rec := sandboxd.Record{N: l.n + 1, Time: time.Now().UTC().Truncate(time.Millisecond), Type: typ, Data: raw}
	if turnID != "" {
		rec.TurnID = &turnID
	}
	line, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("append %s: %w", typ, err)
	}
	if err := l.write(append(line, '\n'), typ == typeTurnStarted); err != nil {
		return fmt.Errorf("append %s to the event log: %w", typ, err)
	}
	l.advance(int64(len(line)) + 1)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// write makes a record durable if a turn must not be told to the harness before it is. All others are the server's to keep: the log
// outlives a killed sandboxd in any case, and a machine that fails ends its sandboxes for good.
func (l *eventLog) write(line []byte, durable bool) error {
	_, err := l.f.WriteAt(line, l.size)
	if err == nil && durable {
		err = unix.Fdatasync(int(l.f.Fd()))
	}
	if err != nil {
		return errors.Join(err, l.f.Truncate(l.size))
	}
	return nil
}

func (l *eventLog) last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// seek returns an offset from which the record after the given one is found by skipping skip records.
func (l *eventLog) seek(after int64) (offset, skip int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after >= l.n {
		return l.size, after - l.n
	}
	i := after / indexStep
	return l.index[i], after - i*indexStep
}

// tail returns how far the log may be read, a channel that is closed when that has changed, and whether the log has ended.
func (l *eventLog) tail() (size int64, changed <-chan struct{}, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size, l.changed, l.closed
}

// end lets readers finish with what there is. Nothing can be appended after it. Idempotent.
func (l *eventLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	close(l.changed)
}

// close ends the log and closes its file; there must be no reader left.
func (l *eventLog) close() error {
	l.end()
	return errors.Join(l.f.Sync(), l.f.Close())
}
