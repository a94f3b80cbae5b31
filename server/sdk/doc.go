// Package sdk tries the clients that other teams pick up as they would: packed and installed in a fresh directory, each runs its
// README's quick start against the real server with a real harness, and then against a proxy that breaks what it can. It knows the
// server only as a process that speaks HTTP.
package sdk
