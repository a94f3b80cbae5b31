package contract

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/client"
)

// Options of a run.
type Options struct {
	URL, Key string
	Requests int    // random ones, 0: 2000; some more look at pages
	Seed     uint64 // the same seed sends the same requests, but for their Idempotency-Keys, to a server that answers the same
	// Sessions also opens sessions and sends messages: each takes a sandbox, and the model of the deployment answers.
	Sessions bool
	Client   *http.Client // nil: one with a timeout of two minutes
}

const (
	runMarker  = "mrk7q" // in every text that is sent; errors must not have it
	runSecret  = "scr9z" // in every value of an environment; nothing must have it that was not asked to
	keptWrongs = 5       // of one case
)

// Run sends random requests, good ones and bad ones, to a deployment of the API, and compares the answers with the document: statuses,
// bodies, headers, errors that name every fault and nothing that was sent, secrets that stay masked, repeats under an Idempotency-Key, pages that
// have each row once.
// It changes and deletes only what it made itself, and deletes all of that before it returns. The error says that it could not run.
func Run(ctx context.Context, o Options) (*Report, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" {
		return nil, errors.New("the URL of the deployment is not an absolute URL")
	}
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, err
	}
	checker, err := NewChecker()
	if err != nil {
		return nil, err
	}
	r := &runner{o: o, checker: checker, run: uuid.NewString() + ".", made: map[string]string{}, report: &Report{Seed: o.Seed}, http: o.Client}
	r.o.URL = strings.TrimSuffix(o.URL, "/")
	if r.http == nil {
		r.http = &http.Client{Timeout: 2 * time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	r.gen = NewGenerator(doc, rand.New(rand.NewPCG(o.Seed, 0)), GeneratorOptions{
		Key: o.Key, Marker: runMarker, Secret: runSecret, Run: r.run, Ends: func(q *Request) bool { return o.Sessions || q.Operation != "createSession" },
	})
	if err := r.reach(ctx); err != nil {
		return nil, err
	}
	begun := time.Now()
	for range cmp.Or(o.Requests, 2000) {
		if ctx.Err() != nil {
			break
		}
		if err := r.next(ctx); err != nil {
			return r.report, errors.Join(err, r.clean(context.WithoutCancel(ctx)))
		}
	}
	if err = ctx.Err(); err == nil {
		err = r.pages(ctx)
	}
	r.report.Took = time.Since(begun)
	return r.report, errors.Join(err, r.clean(context.WithoutCancel(ctx)))
}

type runner struct {
	o       Options
	gen     *Generator
	checker *Checker
	http    *http.Client
	run     string            // begins what is named by this run
	made    map[string]string // paths of what was made and not deleted, by id
	report  *Report
}

// reach checks that there is an API and that the key opens it.
func (r *runner) reach(ctx context.Context) error {
	x, _, err := r.send(ctx, &Request{Method: http.MethodGet, Path: "/api/v1/managed_agents/agents?limit=1", Header: http.Header{"Authorization": {"Bearer " + r.o.Key}}})
	switch {
	case err != nil:
		return err
	case x.Status == http.StatusUnauthorized:
		return errors.New("the key does not open this deployment")
	case x.Status != http.StatusOK:
		return fmt.Errorf("the deployment answers %d to a list of agents", x.Status)
	}
	return nil
}

// send returns an answer with how it differs from the document. The error is one of the connection.
func (r *runner) send(ctx context.Context, q *Request) (*Exchange, []string, error) {
	req, err := http.NewRequestWithContext(ctx, q.Method, r.o.URL+q.Path, bytes.NewReader(q.Body))
	if err != nil {
		return nil, nil, err
	}
	req.Header = q.Header.Clone()
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var wrong []string
	report := func(err error) { wrong = append(wrong, err.Error()) }
	if err := r.checker.Check(req, resp, report); err != nil {
		report(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: the answer breaks off: %w", q.Method, q.Path, err)
	}
	return &Exchange{Request: q, Status: resp.StatusCode, Header: resp.Header, Body: body}, wrong, nil
}

func (r *runner) next(ctx context.Context) error {
	q := r.gen.Next()
	x, wrong, err := r.send(ctx, q)
	if err != nil {
		return err
	}
	wrong = append(append(wrong, judge(x)...), r.gen.Wrong(x)...)
	r.report.add(x, wrong)
	r.remember(x)
	r.gen.Learn(q, x.Status, x.Header, x.Body)
	return nil
}

// judge says what is wrong with the status of an answer.
func judge(x *Exchange) []string {
	q := x.Request
	if q.Repeats != nil {
		if done, wrong := CheckRepeat(x); done {
			return wrong
		}
	}
	var e client.Error
	_ = json.Unmarshal(x.Body, &e)
	switch {
	case x.Status >= http.StatusInternalServerError && x.Status != http.StatusServiceUnavailable:
		return []string{"the server failed"}
	case len(q.Flaws) > 0 && (x.Status != q.Flaws[0].Status || e.Code != q.Flaws[0].Code) && !refusedByState(x, e):
		return []string{fmt.Sprintf("want %d %s for %s", q.Flaws[0].Status, q.Flaws[0].Code, q.Flaws[0].Rule)}
	case len(q.Flaws) == 0 && x.Status >= http.StatusBadRequest && !refusedByState(x, e):
		return []string{"a good request is refused"}
	}
	return nil
}

// refusedByState tells whether an answer may be due to what the server holds, which a run does not know: a session that has ended, a
// deployment that is full, a prompt that skills made too long.
func refusedByState(x *Exchange, e client.Error) bool {
	long := func(d client.ErrorDetail) bool {
		return d.Field == "/prompt" || d.Field == "/content" || d.Field == "/skill_id"
	}
	switch x.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	case http.StatusConflict, http.StatusNotFound, http.StatusBadGateway:
		return strings.Contains(x.Request.Path, "/session")
	case http.StatusBadRequest:
		return e.Code == "invalid_request" && len(e.Details) == 1 && long(e.Details[0])
	}
	return false
}

// remember notes what has to be deleted in the end.
func (r *runner) remember(x *Exchange) {
	if x.Request.Method == http.MethodDelete && x.Status == http.StatusNoContent {
		for _, id := range x.Request.IDs {
			if strings.HasSuffix(strings.SplitN(x.Request.Path, "?", 2)[0], id) {
				delete(r.made, id)
			}
		}
		return
	}
	if x.Status >= http.StatusMultipleChoices {
		return
	}
	var got struct {
		ID    string
		Skill struct{ ID string }
	}
	_ = json.Unmarshal(x.Body, &got)
	switch x.Request.Operation {
	case "createAgent":
		r.made[got.ID] = "/api/v1/managed_agents/agents/"
	case "createSession":
		r.made[got.ID] = "/api/v1/managed_agents/sessions/"
	case "createSkill":
		r.made[got.ID] = "/api/v1/skills/"
	case "attachSkill":
		if got.Skill.ID != "" {
			r.made[got.Skill.ID] = "/api/v1/skills/"
		}
	}
}

// clean deletes what is left. What is gone already, such as the skill of a replayed answer, is no fault.
func (r *runner) clean(ctx context.Context) error {
	var left []string
	for id, path := range r.made {
		q := &Request{Method: http.MethodDelete, Path: path + id, Header: http.Header{"Authorization": {"Bearer " + r.o.Key}}}
		x, _, err := r.send(ctx, q)
		if err != nil || x.Status != http.StatusNoContent && x.Status != http.StatusNotFound {
			left = append(left, path+id)
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		return fmt.Errorf("could not delete %s", strings.Join(left, ", "))
	}
	return nil
}
