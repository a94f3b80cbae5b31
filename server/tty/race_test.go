//go:build race

package tty_test

// The race detector keeps a shadow of all memory.
func init() { memoryFactor = 8 }
