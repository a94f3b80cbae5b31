package bench_test

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// goal is what the original reached, at its best, and how many times as much this server shall reach.
type goal struct{ original, factor float64 }

// cell is one line of the table.
type cell struct {
	kind, op            string
	rows, conns         int
	took                []time.Duration // sorted
	wall, cpu, database time.Duration
	goal                goal
	base                float64 // rate of the same operation with the fewest rows; 0: not compared
}

func (c cell) rate() float64 { return float64(len(c.took)) / c.wall.Seconds() }

func (c cell) quantile(q float64) time.Duration { return c.took[int(q*float64(len(c.took)-1))] }

func (c cell) perRequest(d time.Duration) time.Duration { return d / time.Duration(len(c.took)) }

// verdict compares with the original, or with the same operation on fewer rows.
func (c cell) verdict() string {
	switch {
	case c.base > 0:
		return fmt.Sprintf("%.0f%% of the rate with the fewest rows; budget 80%%", 100*c.rate()/c.base)
	case c.goal.original > 0:
		return fmt.Sprintf("%.1fx the original's %.0f/s; budget %.0fx", c.rate()/c.goal.original, c.goal.original, c.goal.factor)
	}
	return ""
}

type report struct {
	w *tabwriter.Writer
}

func newReport(w io.Writer) *report {
	r := &report{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(r.w, "database\trows\toperation\tclients\trequests/s\tp50 ms\tp99 ms\tserver us\tdatabase us\t")
	return r
}

func (r *report) add(c cell) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Fprintf(r.w, "%s\t%d\t%s\t%d\t%.0f\t%.2f\t%.2f\t%d\t%d\t%s\n", c.kind, c.rows, c.op, c.conns, c.rate(), ms(c.quantile(.5)),
		ms(c.quantile(.99)), c.perRequest(c.cpu).Microseconds(), c.perRequest(c.database).Microseconds(), c.verdict())
	_ = r.w.Flush()
}

// figure adds a line that is not about requests.
func (r *report) figure(kind, name, value, budget string) {
	fmt.Fprintf(r.w, "%s\t\t%s\t\t%s\tbudget %s\n", kind, name, value, budget)
	_ = r.w.Flush()
}
