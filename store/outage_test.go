package store_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3/lock"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestLostPostgresIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name       string
		lose, back func(*storetest.Server)
	}{
		{"stopped", (*storetest.Server).Stop, (*storetest.Server).Start},
		{"killed", (*storetest.Server).Kill, (*storetest.Server).Start},
		{"hung", (*storetest.Server).Pause, (*storetest.Server).Resume},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			server := storetest.NewServer(t)
			s := storetest.OpenWith(t, store.Options{DatabaseURL: server.DSN(), Keyring: storetest.Keyring(t), Timeout: time.Second, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
			sess := newSession(t, s)
			var r recorder
			defer s.Subscribe(r.add)()
			lost := make(chan error, 1)
			leading := make(chan store.Lease, 1)
			go func() {
				lost <- s.Lead(t.Context(), func(ctx context.Context, l store.Lease) error {
					leading <- l
					<-ctx.Done()
					return ctx.Err()
				})
			}()
			lease := receive(t, leading)

			err := s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
				tx.Append(store.NewEvent{Type: "lost in the middle"})
				how.lose(server)
				return nil
			})
			if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("unit of work: %v", err)
			}
			for range 2 {
				_, err := s.GetSession(t.Context(), sess.ID)
				for _, err := range []error{err, s.Ping(t.Context()), s.Session(t.Context(), sess.ID, appendOne("x"))} {
					if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("while lost: %v", err)
					}
				}
			}
			if err := receive(t, lost); !errors.Is(err, store.ErrLeaseLost) {
				t.Errorf("leadership: %v", err)
			}

			how.back(server)
			eventually(t, "the database answers again", func() bool { return s.Ping(t.Context()) == nil })
			eventually(t, "subscribers hear that something may have changed", func() bool { return slices.Contains(r.take(), "") })
			if next := lead(t, s); next.Epoch <= lease.Epoch {
				t.Errorf("epoch %d after %d", next.Epoch, lease.Epoch)
			}
			check(t, s.Session(t.Context(), sess.ID, appendOne("y")))
			got, err := s.GetSession(t.Context(), sess.ID)
			check(t, err)
			events, err := s.Events(t.Context(), sess.ID, 0, 100)
			check(t, err)
			if int64(len(events)) != got.LastSeq || events[len(events)-1].Type != "y" {
				t.Errorf("last seq %d, %d events", got.LastSeq, len(events))
			}
		})
	}
}

func TestOtherProcessesHearOfCommits(t *testing.T) {
	t.Parallel()
	o := storetest.Options(t, storetest.KindPostgres)
	here, there := storetest.OpenWith(t, o), storetest.OpenWith(t, o)
	var mine, theirs recorder
	defer here.Subscribe(mine.add)()
	heard := make(chan struct{}, 100)
	defer there.Subscribe(func(c store.Change) {
		theirs.add(c)
		heard <- struct{}{}
	})()
	sess := newSession(t, here)
	if err := here.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { tx.Append(store.NewEvent{}); return errBoom }); err != errBoom {
		t.Fatal(err)
	}
	other := newSession(t, here)
	receive(t, heard)
	receive(t, heard)
	wantIDs(t, &theirs, sess.ID, other.ID)
	check(t, here.Session(t.Context(), sess.ID, appendOne("x")))
	receive(t, heard)
	check(t, here.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { return tx.AddTurn(&store.Turn{}) }))
	receive(t, heard)
	check(t, here.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
		open, err := tx.OpenTurns()
		check(t, err)
		now := tx.Now()
		open[0].Status, open[0].EndedAt = "completed", &now
		return tx.SaveTurn(&open[0])
	}))
	receive(t, heard)
	wantIDs(t, &mine, sess.ID, other.ID, sess.ID, sess.ID, sess.ID) // not a second time through the server
	if got, want := theirs.takeExtents(), []store.Extent{store.OnlyProgress, store.OnlyTurns, store.OnlyEnds}; !slices.Equal(got, want) {
		t.Errorf("extents %v, want %v", got, want)
	}
}

func TestReplicasMayStartAtOnceOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	server := storetest.NewServer(t)
	conn, err := pgx.Connect(t.Context(), server.DSN())
	check(t, err)
	_, err = conn.Exec(t.Context(), "SELECT pg_advisory_lock($1)", lock.DefaultLockID)
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = store.Open(ctx, store.Options{DatabaseURL: server.DSN(), Keyring: storetest.Keyring(t)})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opened while another process migrates: %v", err)
	}
	check(t, conn.Close(t.Context()))
	opened := make(chan error)
	const replicas = 4
	for range replicas {
		go func() {
			s, err := store.Open(t.Context(), store.Options{DatabaseURL: server.DSN(), Keyring: storetest.Keyring(t), MaxConns: 2})
			if err == nil {
				err = s.Close()
			}
			opened <- err
		}()
	}
	for range replicas {
		if err := receive(t, opened); err != nil {
			t.Error(err)
		}
	}
}

func TestLeadershipEndsWhenItsConnectionIsClosedByTheServer(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindPostgres)
	err := s.Lead(within(t), func(ctx context.Context, l store.Lease) error {
		check(t, store.Exec(t, s, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"))
		begin := time.Now()
		<-ctx.Done()
		if waited := time.Since(begin); waited > time.Second {
			t.Errorf("noticed after %s", waited)
		}
		return nil
	})
	if !errors.Is(err, store.ErrLeaseLost) {
		t.Fatal(err)
	}
}
