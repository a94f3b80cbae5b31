// Package tty tests terminals whole: from a client of the API through the server, the local runtime and a real sandboxd to a program
// in a pseudo-terminal, and measures what that adds to the bare one. It is tests only.
package tty
