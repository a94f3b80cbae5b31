package cli

import (
	"io"
	"os"
)

// What the tests of the parts need.
var (
	Escaped   = escaped
	CutDetach = cutDetach
)

// NewEscaper returns a writer that escapes.
func NewEscaper(w io.Writer) io.Writer { return &escaper{w: w} }

// PrintTable prints a table.
func PrintTable(w io.Writer, rows [][]string) { table(rows).print(w) }

// PanicWhileRaw panics in a guarded goroutine while a terminal is raw, and returns after that.
func PanicWhileRaw(f *os.File) (raw bool, fault any) {
	t := newTTY(f)
	defer func() { fault = recover() }()
	defer t.guard()
	if raw = t.raw() == nil; raw {
		panic("a fault")
	}
	return raw, nil
}
