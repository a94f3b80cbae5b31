// Package chaos is the fault harness: its test starts the real binary over a real database, with real sandboxes and the demo
// gateway, drives many clients, and breaks things at random points: it kills and stops the server, sandboxd and the harness,
// restarts, hangs and cuts off the database, fills the disk, makes the gateway fail and clients vanish. In quiet periods an oracle
// compares what clients were told with what the server says: each accepted message ended once, event logs have neither gaps nor
// doubles, and nothing is left behind. It knows the server only as a process that speaks HTTP and as files and processes of its
// data directory; in its database it does nothing but shorten idle timeouts. Run it with `go tool task chaos`.
package chaos
