package contract

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Report is what came of a run.
type Report struct {
	Seed  uint64
	Took  time.Duration
	Cases []*Case // in the order in which they first came up
}

// Case is what one operation did with one kind of request.
type Case struct {
	Operation string // operationId, or "no operation"
	Kind      string // "good request", "repeated request", or the rule that is broken
	Requests  int
	Wrong     []string // what was wrong, with the request: the first five
	Faults    int      // requests with a wrong answer
}

func (r *Report) add(x *Exchange, wrong []string) {
	q := x.Request
	operation, kind := cmp.Or(q.Operation, "no operation"), "good request"
	switch {
	case q.Repeats != nil:
		kind = "repeated request"
	case len(q.Flaws) > 0:
		kind = "refuses: " + q.Flaws[0].Rule
	}
	i := slices.IndexFunc(r.Cases, func(c *Case) bool { return c.Operation == operation && c.Kind == kind })
	if i < 0 {
		i = len(r.Cases)
		r.Cases = append(r.Cases, &Case{Operation: operation, Kind: kind})
	}
	c := r.Cases[i]
	c.Requests++
	if len(wrong) == 0 {
		return
	}
	if c.Faults++; len(c.Wrong) < keptWrongs {
		c.Wrong = append(c.Wrong, fmt.Sprintf("%s %s\n%s\nanswered %d %s\n- %s", q.Method, q.Path, first(q.Body, 2000), x.Status, first(x.Body, 2000), strings.Join(wrong, "\n- ")))
	}
}

func first(b []byte, n int) []byte { return b[:min(n, len(b))] }

// Faults is the number of answers that were wrong, Requests that of all.
func (r *Report) Faults() (n int) {
	for _, c := range r.Cases {
		n += c.Faults
	}
	return n
}

// Requests is the number of requests that were sent.
func (r *Report) Requests() (n int) {
	for _, c := range r.Cases {
		n += c.Requests
	}
	return n
}

// JUnit writes the report in the form that pipelines read: a test suite, with a test case for each Case.
func (r *Report) JUnit(w io.Writer) error {
	type failure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testCase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Failure *failure `xml:"failure,omitempty"`
	}
	suite := struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testCase `xml:"testcase"`
	}{Name: fmt.Sprintf("lap contract, seed %d", r.Seed), Tests: len(r.Cases), Time: fmt.Sprintf("%.3f", r.Took.Seconds())}
	for _, c := range r.Cases {
		tc := testCase{Class: c.Operation, Name: c.Kind}
		if c.Faults > 0 {
			suite.Failures++
			tc.Failure = &failure{fmt.Sprintf("%d of %d answers are wrong", c.Faults, c.Requests), strings.Join(c.Wrong, "\n\n")}
		}
		suite.Cases = append(suite.Cases, tc)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
