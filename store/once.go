package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"gorm.io/gorm"
)

// answersKept is how long a repeat of a request gets the first one's answer.
const answersKept = 24 * time.Hour

const bodyDigest = "request body"

// Request names what is to be done once. A repeat has the same Scope, Key and
// Body.
type Request struct {
	Scope string // what the key is unique in
	Key   string
	Body  []byte // only a keyed digest of it is stored
}

// Answer is what a request was answered with.
type Answer struct {
	Status int
	Header map[string]string
	Body   []byte
}

// Once runs work and stores its answer in the transaction of what work did, so
// that there is never one without the other. A repeat within 24 h gets that
// answer, replayed is then true; one that arrives while the first still runs
// waits for its commit. ErrKeyReused if the request with this key had another
// body. An error of work, or a panic, rolls everything back, stores nothing and
// is returned as it is.
//
// The transaction begins with the first change that work makes through its ctx,
// on any handle of this database, and is bounded by Options.Timeout from then
// on: until then work may do slow things, and reads see what is committed.
// InTx, Session and the like join it, so an error of theirs undoes only what
// they did. When another request turns out to hold the key, that first change
// fails and work should return; what work did outside the database is its own
// to undo. The ctx must not be used by two goroutines at once, nor for changes
// after work has returned.
func (s *Store) Once(ctx context.Context, r Request, work func(ctx context.Context) (Answer, error)) (a Answer, replayed bool, err error) {
	if s.unit != nil || s.onceOf(ctx) != nil {
		return Answer{}, false, errors.New("once: already in a unit of work")
	}
	r.Scope, r.Key = indexable(r.Scope), indexable(r.Key)
	a, err = s.answered(ctx, r, now().Add(-answersKept))
	if !errors.Is(err, ErrNotFound) {
		return a, err == nil, err
	}
	o := &once{shared: s.shared}
	a, err = s.perform(ctx, o, r, work)
	if !errors.Is(o.err, errAnswered) {
		return a, false, err
	}
	if a, err = s.answered(ctx, r, time.Time{}); errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: the answer is gone again", ErrUnavailable)
	}
	return a, err == nil, err
}

// once is the transaction that the work of Once may open.
type once struct {
	shared *shared
	begin  func() (*Store, error) // opens it, or returns the one that is open
	tx     *Store                 // nil while it is not
	err    error                  // of the first begin
}

type onceKey struct{}

// errAnswered means that another request holds the key and has committed.
var errAnswered = errors.New("an earlier request has been answered")

// onceOf returns what ctx carries of a Once on this database, nil inside the
// transaction itself.
func (s *Store) onceOf(ctx context.Context) *once {
	if s.unit != nil {
		return nil
	}
	if o, ok := ctx.Value(onceKey{}).(*once); ok && o.shared == s.shared {
		return o
	}
	return nil
}

func (s *Store) perform(ctx context.Context, o *once, r Request, work func(ctx context.Context) (Answer, error)) (Answer, error) {
	bound, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var expire *time.Timer
	// A first begin that fails has decided: work must not go on as if nothing had been.
	o.begin = sync.OnceValues(func() (*Store, error) {
		expire = time.AfterFunc(s.timeout, func() { cancel(errTooSlow) })
		o.tx, o.err = s.claim(bound, r)
		return o.tx, o.err
	})
	defer func() {
		if expire != nil {
			expire.Stop()
		}
		if o.tx != nil {
			o.tx.rollback()
		}
	}()
	a, err := work(context.WithValue(bound, onceKey{}, o))
	if err != nil {
		return Answer{}, err
	}
	tx, err := o.begin()
	if err != nil {
		return Answer{}, err
	}
	if err := tx.saveAnswer(bound, r, a); err != nil {
		return Answer{}, fmt.Errorf("store answer: %w", err)
	}
	return a, tx.commit(bound)
}

// claim opens the transaction of r and writes the row of its key, which keeps
// others that have the same key waiting. errAnswered if one was faster.
func (s *Store) claim(ctx context.Context, r Request) (*Store, error) {
	tx, err := s.begin(ctx, true)
	if err != nil {
		return nil, err
	}
	at := now()
	err = tx.exec(ctx, func(db *gorm.DB) error {
		res := db.Exec(`INSERT INTO answers (scope, key, digest, status, header, body, created_at) VALUES (?, ?, ?, 0, '', ?, ?)
			ON CONFLICT (scope, key) DO UPDATE SET digest = excluded.digest, created_at = excluded.created_at
			WHERE answers.created_at <= ?`,
			r.Scope, r.Key, s.keyring.Digest(bodyDigest, r.Body), []byte{}, at.UnixMilli(), at.Add(-answersKept).UnixMilli())
		if res.Error == nil && res.RowsAffected == 0 {
			return errAnswered
		}
		return res.Error
	})
	if err != nil {
		tx.rollback()
		return nil, fmt.Errorf("claim key: %w", err)
	}
	return tx, nil
}

func (s *Store) saveAnswer(ctx context.Context, r Request, a Answer) error {
	header, err := json.Marshal(a.Header)
	if err != nil {
		return err
	}
	return s.exec(ctx, func(db *gorm.DB) error {
		res := db.Exec("UPDATE answers SET status = ?, header = ?, body = ? WHERE scope = ? AND key = ?",
			a.Status, string(header), append([]byte{}, a.Body...), r.Scope, r.Key)
		if res.Error == nil && res.RowsAffected == 0 {
			return errBroken
		}
		return res.Error
	})
}

// answered returns the stored answer to r if it is younger than since.
func (s *Store) answered(ctx context.Context, r Request, since time.Time) (Answer, error) {
	var rows []struct {
		Digest, Body []byte
		Status       int
		Header       string
	}
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT digest, status, header, body FROM answers WHERE scope = ? AND key = ? AND created_at > ?",
			r.Scope, r.Key, since.UnixMilli()).Scan(&rows).Error
	})
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("read answer: %w", err)
	case len(rows) == 0:
		return Answer{}, ErrNotFound
	case !s.keyring.SameDigest(rows[0].Digest, bodyDigest, r.Body):
		return Answer{}, ErrKeyReused
	}
	a := Answer{Status: rows[0].Status, Body: rows[0].Body}
	if err := json.Unmarshal([]byte(rows[0].Header), &a.Header); err != nil {
		return Answer{}, fmt.Errorf("read answer: %w", err)
	}
	return a, nil
}

// forgetBatch bounds the rows of one deletion.
const forgetBatch = 1000

// ForgetAnswers deletes the answers that are too old to be given again and
// returns how many there were.
func (s *Store) ForgetAnswers(ctx context.Context) (total int64, err error) {
	old := now().Add(-answersKept).UnixMilli()
	for n := int64(forgetBatch); n == forgetBatch; total += n {
		err := s.exec(ctx, func(db *gorm.DB) error {
			// The outer condition holds for a row that was taken over by a new request in the meantime.
			res := db.Exec(`DELETE FROM answers WHERE created_at <= ? AND (scope, key) IN
				(SELECT scope, key FROM answers WHERE created_at <= ? ORDER BY created_at LIMIT ?)`, old, old, forgetBatch)
			n = res.RowsAffected
			return res.Error
		})
		if err != nil {
			return total, fmt.Errorf("forget answers: %w", err)
		}
	}
	return total, nil
}

// indexable makes s fit into an index of either database, different texts
// differently.
func indexable(s string) string {
	if len(s) <= 512 && s == clean(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}
