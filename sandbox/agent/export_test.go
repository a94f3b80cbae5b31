package agent

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// WithAbortWithin shortens how long a harness has to obey.
func (c Config) WithAbortWithin(d time.Duration) Config {
	c.abortWithin = d
	return c
}

// WithSelf says how the program is started that packs and unpacks checkpoints.
func (c Config) WithSelf(argv ...string) Config {
	c.self = argv
	return c
}

// AllowFamilies is what keepToIP does, with families that a test chooses.
var AllowFamilies = allowFamilies

// These are the numbers of deltas and of all records that one turn may make.
const (
	MaxDeltas  = maxDeltas
	MaxRecords = maxRecords
	MaxOutput  = maxOutput
	MaxResult  = maxResult
)

// Record passes events of one turn through a recorder into an event log in dir and returns the log.
func Record(dir, turn string, log *slog.Logger, feed func(emit func(harness.Event))) ([]sandboxd.Record, error) {
	events, err := openEventLog(dir, func(sandboxd.Record) {})
	if err != nil {
		return nil, err
	}
	r := newRecorder(events, log, func(string, string) {}, nil)
	r.begin(turn)
	feed(r.emit)
	r.end()
	r.close()
	if err := events.close(); err != nil {
		return nil, err
	}
	return Reload(dir)
}

// RecordOnFullDisk is Record on a disk that is full for the given time. When giveUp is closed the recorder waits no longer.
func RecordOnFullDisk(dir string, full time.Duration, giveUp <-chan struct{}, log *slog.Logger, feed func(emit func(harness.Event))) ([]sandboxd.Record, error) {
	events, err := openEventLog(dir, func(sandboxd.Record) {})
	if err != nil {
		return nil, err
	}
	good := events.f
	if events.f, err = os.Open(good.Name()); err != nil {
		return nil, err
	}
	room := time.AfterFunc(full, func() {
		events.mu.Lock()
		defer events.mu.Unlock()
		_ = events.f.Close()
		events.f = good
	})
	r := newRecorder(events, log, func(string, string) {}, giveUp)
	r.begin("t")
	feed(r.emit)
	r.end()
	r.close()
	room.Stop()
	if err := events.close(); err != nil && events.f == good {
		return nil, err
	}
	return Reload(dir)
}

// Reload reads the event log in dir as a new sandboxd would.
func Reload(dir string) ([]sandboxd.Record, error) {
	var all []sandboxd.Record
	l, err := openEventLog(dir, func(r sandboxd.Record) { all = append(all, r) })
	if err != nil {
		return nil, err
	}
	return all, l.close()
}

// BoundedResult is what of a turn's result reaches the log.
var BoundedResult = boundedResult

// FillDisk tries to write a delta and the end of a turn while the log in dir takes nothing, and again when it does. It returns
// the errors of the first time.
func FillDisk(ctx context.Context, dir string, log *slog.Logger) (deltaErr error, ended bool, err error) {
	l, err := openEventLog(dir, func(sandboxd.Record) {})
	if err != nil {
		return nil, false, err
	}
	good := l.f
	if l.f, err = os.Open(good.Name()); err != nil {
		return nil, false, err
	}
	s := &session{events: l, log: log, state: stateReady, current: "t"}
	deltaErr = l.append(typeDelta, "t", struct{}{})
	ended = s.tryConclude("", typeTurnCompleted, "t", struct{}{}) || s.current == ""
	time.AfterFunc(3*time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		_ = l.f.Close()
		l.f = good
	})
	s.conclude(ctx, "", typeTurnCompleted, "t", struct{}{})
	return deltaErr, ended, l.close()
}

// LastLines is how a program's output becomes part of a sentence.
var LastLines = lastLines

// SandboxPath maps a path of the public API.
var SandboxPath = sandboxPath

// Heartbeats follows an empty log and returns the first two lines that come.
func Heartbeats(ctx context.Context, dir string, beat time.Duration) <-chan string {
	got := make(chan string, 1)
	events, err := openEventLog(dir, func(sandboxd.Record) {})
	if err != nil {
		got <- err.Error()
		return got
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &twoWrites{ResponseRecorder: httptest.NewRecorder(), enough: cancel}
	go func() {
		_ = eventStream{ctx: ctx, events: events, beat: beat}.VisitStreamEventsResponse(w)
		_ = events.close()
		got <- w.Body.String()
	}()
	return got
}

type twoWrites struct {
	*httptest.ResponseRecorder
	n      int
	enough func()
}

func (w *twoWrites) SetWriteDeadline(time.Time) error { return nil }

func (w *twoWrites) Write(b []byte) (int, error) {
	w.n++
	if w.n > 2 {
		return 0, errLogClosed
	}
	if w.n == 2 {
		w.enough()
	}
	return w.ResponseRecorder.Write(b)
}
