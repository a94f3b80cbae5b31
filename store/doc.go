// Package store owns everything that must survive a restart: agents and their
// immutable versions, file contents, sessions, turns and the event log. It runs
// on Postgres or on one embedded SQLite file with the same behaviour.
//
// It knows nothing of sandboxes, harnesses, HTTP or the wire types. No gorm or
// driver type appears in its exported API, and every driver error is turned
// into one of the sentinels of this package.
//
// A Store is safe for concurrent use. The Store and the SessionTx handed to a
// function of InTx, CreateSession, Session or Observe belong to that call: they
// must not be used by another goroutine or after the function has returned.
// Subscribers are called on a goroutine that commits, perhaps for others as
// well, and must not block.
package store
