package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// A checkpoint is the state of a harness, packed so that it can go on in another workspace. Packing and unpacking are done by this
// program started again, for a short time: what they take of memory goes with them.

const (
	maxCheckpoint    = 32 << 20 // bytes, packed
	checkpointWithin = time.Minute
)

var (
	errTooLarge = errors.New("too large")
	errNothing  = errors.New("there is no state")
)

// checkpoints is what a session knows of its own.
type checkpoints struct {
	making sync.Mutex // held while one is made or stored; guards made, and the files

	made int64 // how many were

	mu     sync.Mutex // guards the rest
	native func() string
	id     string // last known
	state  *harness.State
	told   bool // that it is too large
}

// packed is a checkpoint on disk, to be read once.
type packed struct {
	*os.File
	size                       int64
	sum, mark, native, lastRun string
	number                     int64
}

// keeps remembers what there is to keep of a harness that runs.
func (c *checkpoints) keeps(state *harness.State, native func() string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.native, c.id = state, native, native()
}

// ended remembers the conversation of a harness that is about to be closed.
func (c *checkpoints) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.native != nil {
		c.id, c.native = c.native(), nil
	}
}

func (c *checkpoints) conversation() (*harness.State, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.native != nil {
		c.id = c.native()
	}
	return c.state, c.id
}

// checkpoint packs the state of the harness, unless it is the one that a caller has: errNothing.
func (s *session) checkpoint(ctx context.Context, have string) (p packed, err error) {
	state, native := s.kept.conversation()
	if state == nil || native == "" {
		return p, fmt.Errorf("%w: the harness has not been ready", errConflict)
	}
	s.kept.making.Lock()
	defer s.kept.making.Unlock()
	p.native, p.lastRun = native, s.lastTurn()
	if p.mark, err = markOf(*state); err != nil || p.mark == have {
		return p, errors.Join(err, errNothing)
	}
	to := filepath.Join(s.c.StateDir, "checkpoint.out")
	said, err := s.child(ctx, "pack", *state, to)
	if err != nil {
		return p, errors.Join(err, removeIfThere(to))
	}
	if said.TooLarge {
		s.tellTooLarge()
		return p, fmt.Errorf("%w: the state of the harness does not fit into %d MiB", errTooLarge, maxCheckpoint>>20)
	}
	if p.File, err = os.Open(to); err != nil {
		return p, err
	}
	s.kept.made++
	p.size, p.sum, p.number = said.Size, said.Sum, s.kept.made
	return p, os.Remove(to) // it is read by its descriptor
}

func (s *session) lastTurn() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// tellTooLarge says once in an attempt that a lost sandbox would lose more than it should.
func (s *session) tellTooLarge() {
	s.kept.mu.Lock()
	told := s.kept.told
	s.kept.told = true
	s.kept.mu.Unlock()
	if !told {
		s.tellCheckpoint("too_large", fmt.Sprintf("the harness's state does not fit into %d MiB any more; the last checkpoint is kept", maxCheckpoint>>20))
	}
}

func (s *session) tellCheckpoint(status, message string) {
	data := map[string]string{"kind": "checkpoint", "status": status, "message": *cut(&message, maxMessage)}
	if err := s.events.append(typeHarnessEvent, "", data); err != nil {
		s.log.Error("record was lost", "type", typeHarnessEvent, "err", err)
	}
}

func (s *session) broughtCheckpoint() string { return filepath.Join(s.c.StateDir, "checkpoint.in") }

// bringCheckpoint stores a checkpoint for the binding to name.
func (s *session) bringCheckpoint(body io.Reader) error {
	s.kept.making.Lock()
	defer s.kept.making.Unlock()
	if s.health().State != stateUnbound {
		return fmt.Errorf("%w: the session is bound", errConflict)
	}
	f, err := os.OpenFile(s.broughtCheckpoint(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(body, maxCheckpoint+1))
	if n > maxCheckpoint {
		err = errors.Join(err, errTooLarge)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, removeIfThere(f.Name()))
	}
	return nil
}

// restore makes a fresh workspace one in which the harness can go on, if the binding names a checkpoint. If that cannot be, it says
// so, and the conversation is one that is told what was said. restored is nil then.
func (s *session) restore(ctx context.Context, c sandboxd.SessionConfig, h harness.Harness, hc *harness.Config) (restored *harness.State) {
	from := s.broughtCheckpoint()
	defer func() {
		if err := removeIfThere(from); err != nil {
			s.log.Error("checkpoint was not removed", "err", err)
		}
	}()
	if c.Checkpoint == nil {
		return nil
	}
	state, err := harness.StateOf(h, hc.Env)
	if err == nil {
		err = isOfSum(from, *c.Checkpoint)
	}
	if err == nil {
		_, err = s.child(ctx, "unpack", *state, from)
	}
	if err != nil {
		s.refuseCheckpoint(state, hc, err)
		return nil
	}
	if c.Missed != nil {
		hc.Missed = *c.Missed
	}
	return state
}

// refuseCheckpoint says that a checkpoint is of no use and removes what it may have left.
func (s *session) refuseCheckpoint(state *harness.State, hc *harness.Config, why error) {
	s.log.Warn("checkpoint is of no use", "err", why)
	hc.Resume, hc.Missed = "", ""
	if state != nil {
		if err := wipeState(*state); err != nil {
			why = errors.Join(why, err)
		}
	}
	s.tellCheckpoint("refused", "the checkpoint cannot be used: "+why.Error())
}

func isOfSum(path, sum string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it was not brought")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return errors.New("it is not the one that was meant")
	}
	return nil
}

// wipeState removes what a harness would go on from.
func wipeState(state harness.State) error {
	if state.Database == "" {
		return os.RemoveAll(state.Dir)
	}
	var errs []error
	for _, end := range databaseFiles {
		errs = append(errs, removeIfThere(filepath.Join(state.Dir, state.Database+end)))
	}
	return errors.Join(errs...)
}

var databaseFiles = []string{"", "-wal", "-shm"}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// markOf names a state without reading it: by the names, sizes and times of its files.
func markOf(state harness.State) (string, error) {
	h := sha256.New()
	note := func(name string, info fs.FileInfo) {
		fmt.Fprintf(h, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
	}
	if state.Database == "" {
		files, err := stateFiles(state.Dir)
		if err != nil {
			return "", err
		}
		for _, f := range files {
			note(f.name, f.info)
		}
		if len(files) == 0 {
			return "", errNothing
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	for _, end := range databaseFiles[:2] {
		info, err := os.Lstat(filepath.Join(state.Dir, state.Database+end))
		if errors.Is(err, fs.ErrNotExist) && end != "" {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", errNothing
		}
		if err != nil {
			return "", err
		}
		note(end, info)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// childSaid is what a child that packs or unpacks has to say.
type childSaid struct {
	Size     int64  `json:"size"`
	Sum      string `json:"sum"`
	TooLarge bool   `json:"too_large"`
	Error    string `json:"error"`
}

const checkpointVerb = "checkpoint"

// child runs this program as one that packs or unpacks a state.
func (s *session) child(ctx context.Context, verb string, state harness.State, file string) (said childSaid, err error) {
	if len(s.c.self) == 0 {
		return said, errors.New("sandboxd does not know how it was started")
	}
	out, err := command{
		dir: s.c.StateDir, within: checkpointWithin,
		env: []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + filepath.Join(s.c.Root, tmpDir), "LAP_SANDBOX_ID=" + s.c.SandboxID,
			"GOMAXPROCS=1", "GOGC=" + strconv.Itoa(gcPercent)},
		argv: append(append([]string{}, s.c.self...), checkpointVerb, verb, state.Dir, state.Database, file),
	}.run(ctx)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if json.Unmarshal([]byte(lines[len(lines)-1]), &said) != nil {
		return said, fmt.Errorf("%s checkpoint: %w: %s", verb, errors.Join(err, errors.New("no result")), out)
	}
	if said.Error != "" {
		return said, errors.New(said.Error)
	}
	return said, err
}
