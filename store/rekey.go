package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"gorm.io/gorm"
)

// rekeyBatch bounds the rows of one transaction.
const rekeyBatch = 100

// KeyUse says what in the database needs one encryption key.
type KeyUse struct {
	ID          string // as in Keyring.IDs
	Listed      bool   // in the ring
	Sealed      int64  // versions of agents whose secrets it seals
	Checkpoints int64  // checkpoints that it seals
	Sandboxes   int64  // sandboxes that obey only calls signed with it
	Digests     int64  // requests of the last 24 h whose repeats it recognises
}

// Needed reports whether removing the key would lose something.
func (u KeyUse) Needed() bool { return u.Sealed+u.Checkpoints+u.Sandboxes+u.Digests > 0 }

// Rekey seals everything again that is not sealed with the first key of the
// ring, and returns how many values it changed. It may be stopped and begun
// again at any time, run beside servers, and be run twice at once: a value that
// changes in the meantime is left alone. progress, if not nil, is told after
// each batch how many were changed so far. When values are sealed with a key
// that the ring does not hold, nothing is changed and the error says how many.
// Values that cannot be opened with the key they name are left and counted in
// the error.
func (s *Store) Rekey(ctx context.Context, progress func(done int64)) (done int64, err error) {
	uses, err := s.KeyUses(ctx)
	if err != nil {
		return 0, err
	}
	for _, u := range uses {
		if u.Sealed > 0 && !u.Listed {
			return 0, fmt.Errorf("%d versions of agents are sealed with key %s, which is not in the list", u.Sealed, u.ID)
		}
		if u.Checkpoints > 0 && !u.Listed {
			return 0, fmt.Errorf("%d checkpoints are sealed with key %s, which is not in the list", u.Checkpoints, u.ID)
		}
	}
	var unread int64
	after := sealedRow{AgentID: zeroID}
	for {
		rows, err := s.sealedOtherwise(ctx, after)
		if err != nil {
			return done, fmt.Errorf("read sealed values: %w", err)
		}
		if len(rows) == 0 {
			break
		}
		changed, bad, err := s.reseal(ctx, rows)
		if err != nil {
			return done, fmt.Errorf("seal again: %w", err)
		}
		done, unread, after = done+changed, unread+bad, rows[len(rows)-1]
		if progress != nil {
			progress(done)
		}
	}
	lost, err := s.rekeyCheckpoints(ctx, func() {
		done++
		if progress != nil {
			progress(done)
		}
	})
	if err != nil {
		return done, fmt.Errorf("seal checkpoints again: %w", err)
	}
	if unread+lost > 0 {
		return done, fmt.Errorf("%d versions of agents and %d checkpoints are damaged and were left as they are", unread, lost)
	}
	return done, nil
}

type sealedRow struct {
	AgentID   string
	Version   int32
	EnvSealed []byte
}

// sealedOtherwise returns the next rows, in the order of their key, that the
// first key did not seal.
func (s *Store) sealedOtherwise(ctx context.Context, after sealedRow) (rows []sealedRow, err error) {
	first := s.keyring.header()
	err = s.query(ctx, func(db *gorm.DB) error {
		return db.Raw(`SELECT agent_id, version, env_sealed FROM agent_versions
			WHERE (agent_id, version) > (?, ?) AND length(env_sealed) > 0 AND substr(env_sealed, 1, ?) <> ?
			ORDER BY agent_id, version LIMIT ?`, after.AgentID, after.Version, len(first), first, rekeyBatch).Scan(&rows).Error
	})
	return rows, err
}

// reseal changes rows that are still as they were read, in one transaction.
func (s *Store) reseal(ctx context.Context, rows []sealedRow) (changed, unread int64, err error) {
	err = s.InTx(ctx, func(s *Store) error {
		for _, row := range rows {
			plain, err := s.keyring.Open(row.EnvSealed, []byte(row.AgentID))
			if err != nil {
				unread++
				continue
			}
			err = s.exec(ctx, func(db *gorm.DB) error {
				res := db.Exec("UPDATE agent_versions SET env_sealed = ? WHERE agent_id = ? AND version = ? AND env_sealed = ?",
					s.keyring.Seal(plain, []byte(row.AgentID)), row.AgentID, row.Version, row.EnvSealed)
				changed += res.RowsAffected
				return res.Error
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return changed, unread, err
}

// keyed are the queries that count what names a key, as id and n; of says where. What is absent is NULL or empty. Digests matter as long as answers are kept.
var keyed = []struct {
	query  string
	recent bool // takes the time of the oldest row that counts
	of     func(u *KeyUse) *int64
}{
	{query: `SELECT substr(env_sealed, 2, 4) AS id, COUNT(*) AS n FROM agent_versions WHERE length(env_sealed) > 0 GROUP BY 1 ORDER BY 1`,
		of: func(u *KeyUse) *int64 { return &u.Sealed }},
	{query: `SELECT substr(sealed, 2, 4) AS id, COUNT(*) AS n FROM checkpoints GROUP BY 1 ORDER BY 1`,
		of: func(u *KeyUse) *int64 { return &u.Checkpoints }},
	{query: `SELECT key_id AS id, COUNT(*) AS n FROM sessions WHERE NOT settled AND sandbox_id <> '' GROUP BY 1 ORDER BY 1`,
		of: func(u *KeyUse) *int64 { return &u.Sandboxes }},
	{query: `SELECT substr(digest, 1, 4) AS id, COUNT(*) AS n FROM answers WHERE created_at > ? GROUP BY 1 ORDER BY 1`, recent: true,
		of: func(u *KeyUse) *int64 { return &u.Digests }},
	{query: `SELECT substr(body_digest, 1, 4) AS id, COUNT(*) AS n FROM turns WHERE length(body_digest) > 0 AND created_at > ? GROUP BY 1 ORDER BY 1`,
		recent: true, of: func(u *KeyUse) *int64 { return &u.Digests }},
}

// KeyUses returns what needs which key: first the keys of the ring in their
// order, used or not, then those that the database names and the ring lacks.
func (s *Store) KeyUses(ctx context.Context) ([]KeyUse, error) {
	uses := []KeyUse{}
	for _, id := range s.keyring.IDs() {
		uses = append(uses, KeyUse{ID: id, Listed: true})
	}
	for _, k := range keyed {
		var args []any
		if k.recent {
			args = append(args, now().Add(-answersKept).UnixMilli())
		}
		var rows []struct {
			ID []byte
			N  int64
		}
		if err := s.query(ctx, func(db *gorm.DB) error { return db.Raw(k.query, args...).Scan(&rows).Error }); err != nil {
			return nil, fmt.Errorf("count uses of keys: %w", err)
		}
		for _, row := range rows {
			id := string(row.ID)
			if len(row.ID) == keyIDSize {
				id = hex.EncodeToString(row.ID)
			}
			i := slices.IndexFunc(uses, func(u KeyUse) bool { return u.ID == id })
			if i < 0 {
				i = len(uses)
				uses = append(uses, KeyUse{ID: id})
			}
			*k.of(&uses[i]) += row.N
		}
	}
	return uses, nil
}
