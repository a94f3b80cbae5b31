package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-runewidth"
)

const maxCell = 60

// table is rows of foreign text, the header first. Its columns are aligned by what the characters take on a terminal.
type table [][]string

func (t table) print(w io.Writer) {
	var widths []int
	for y, row := range t {
		for x, cell := range row {
			t[y][x] = runewidth.Truncate(escaped(cell, ""), maxCell, "…")
			if x == len(widths) {
				widths = append(widths, 0)
			}
			widths[x] = max(widths[x], runewidth.StringWidth(t[y][x]))
		}
	}
	for _, row := range t {
		var b strings.Builder
		for x, cell := range row {
			if x > 0 {
				b.WriteString("  ")
			}
			b.WriteString(runewidth.FillRight(cell, widths[x]))
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
