package kube_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

// faulty is a way to the API server on which things go wrong.
type faulty struct {
	next     http.RoundTripper
	busy     bool          // every third request but the first is answered with 429
	watchFor time.Duration // watches are cut after so long; zero: never
	slow     time.Duration // every request takes so much longer

	away  atomic.Bool // nothing gets through
	count atomic.Int64

	mu      sync.Mutex // guards watches
	watches []*cutBody
}

var errAway = errors.New("connection refused")

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	if f.away.Load() {
		return nil, errAway
	}
	if n := f.count.Add(1); f.busy && n%3 == 0 {
		return &http.Response{
			StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"0"}, "Content-Type": {"text/plain"}}, Request: r,
			Body: io.NopCloser(strings.NewReader("too many requests")), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}, nil
	}
	if f.slow > 0 {
		select {
		case <-time.After(f.slow):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	resp, err := f.next.RoundTrip(r)
	if err != nil || r.URL.Query().Get("watch") != "true" {
		return resp, err
	}
	body := &cutBody{ReadCloser: resp.Body}
	if f.watchFor > 0 {
		body.timer = time.AfterFunc(f.watchFor, body.cut)
	}
	resp.Body = body
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watches = append(f.watches, body)
	return resp, nil
}

// goAway cuts what is connected and lets nothing through.
func (f *faulty) goAway() {
	f.away.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.watches {
		w.cut()
	}
	f.watches = nil
}

type cutBody struct {
	io.ReadCloser
	timer *time.Timer
}

func (b *cutBody) cut() { _ = b.ReadCloser.Close() }

func (b *cutBody) Close() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	return b.ReadCloser.Close()
}

// through returns the configuration of the administrator on a faulty way.
func through(f *faulty) *rest.Config {
	c := rest.CopyConfig(plane.Config)
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	})
	return c
}

func TestTheRuntimeConformsWhenTheClusterIsBusySlowAndCutsWatches(t *testing.T) {
	t.Parallel()
	sandboxtest.Conformance(t, func(t *testing.T) sandboxtest.Subject {
		return newSubject(t, func(o *kube.Options) {
			o.Config = through(&faulty{busy: true, watchFor: 300 * time.Millisecond, slow: 5 * time.Millisecond})
		}, kubetest.KubeletOptions{})
	})
}

func TestAClusterThatWasAwayIsFoundAsItIsNow(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	rt, clients, ns := unattended(t, func(o *kube.Options) { o.Config = through(f) })
	stays, goes := create(t, rt), create(t, rt)
	sandboxtest.Eventually(t, "the watch has told of both", func() error {
		return plainly(rt.Check(t.Context()))
	})
	f.goAway()

	// What was known is still known, and what would change something is an error that may not come again.
	if s, err := rt.Get(t.Context(), stays.ID); err != nil || s.State != sandbox.Starting {
		t.Errorf("got %+v, %v", s, err)
	}
	late := newSpec()
	if err := rt.Create(t.Context(), late); err == nil || errors.Is(err, sandbox.ErrRefused) {
		t.Errorf("create: %v", err)
	}
	if err := rt.Settings().Put(t.Context(), late.SessionID, nil); err == nil {
		t.Error("settings: no error")
	}
	if plainly(rt.Check(t.Context())) == nil {
		t.Error("the check of the cluster finds nothing")
	}
	if err := clients.CoreV1().Pods(ns).Delete(t.Context(), string(goes.ID), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	f.away.Store(false)
	sandboxtest.Eventually(t, "it is seen that a pod is gone", func() error {
		if _, err := rt.Get(t.Context(), goes.ID); !errors.Is(err, sandbox.ErrNotFound) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
	if err := rt.Create(t.Context(), late); err != nil {
		t.Error(err)
	}
	all, err := rt.List(t.Context())
	if err != nil || len(all) != 2 || all[0].ID != stays.ID || all[1].ID != late.ID {
		t.Errorf("there are %+v, %v", all, err)
	}
}

// plainly is the first thing that a check found.
func plainly(r sandbox.Report) error {
	for _, c := range r.Checks {
		if c.Fault != "" {
			return errors.New(c.Name + ": " + c.Fault)
		}
	}
	return nil
}
