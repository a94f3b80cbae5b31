// Package client is the Go client of the LAP API. The *.gen.go file is generated from openapi/openapi.yaml; the rest is written by
// hand and adds what generation cannot: typed errors, retries that never do a thing twice, iterators over lists, event streams that
// resume, replies that survive a lost connection, and terminals. New gives all of it; the generated constructors give none.
//
// The package must not import anything else of this module. An API is safe for concurrent use and starts no goroutines but those
// of a Terminal, which end with it.
package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/oapi-codegen/nullable"
)

// Version is that of the specification that this client is made of; requests carry it as User-Agent.
const Version = "0.1.0"

const (
	defaultRetries  = 4
	defaultWait     = time.Minute
	defaultPatience = 5 * time.Minute
	answerTimeout   = time.Minute // until an answer begins
)

// Options say where the server is and how patient the client is. URL and Key are required.
type Options struct {
	URL string // of the server, for instance https://lap.example.com
	Key string // the master key; for Attach alone, a session's tty_token does as well

	// HTTPClient sends the requests. Default: one with the proxy of the environment that waits a minute for an answer to begin, and
	// without limit for the answer to a message.
	HTTPClient *http.Client
	// Retries is how often a request is sent again that was not answered, or was told to come again. 0: 4 times. Negative: never.
	Retries int
	// LongestWait is the longest Retry-After that is waited for; with a longer one the answer is an error at once. 0: a minute.
	LongestWait time.Duration
	// Patience is how long a stream that broke is opened again without getting on. 0: 5 minutes. Negative: until its context ends.
	Patience time.Duration
	// Lost, if not nil, is called when a stream breaks, once until it goes on. Streams of several goroutines call it concurrently.
	Lost func(error)
}

// API is a server. Its generated methods, such as CreateAgentWithResponse, return an answer that is not a success as a
// *StatusError: without an error, the field for the success is set.
type API struct {
	*ClientWithResponses
	once *Client // sends requests once
	auth func(http.Header)
	dial *http.Client // for upgrades
	url  string
	o    Options
}

// New returns a client, to be made once and kept: it has connections of its own. It connects to nothing yet.
func New(o Options) (*API, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the URL is not an http or https URL of a server")
	}
	if strings.TrimSpace(o.Key) == "" || strings.ContainsFunc(o.Key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, errors.New("the key is missing or has a character that no key has")
	}
	key := o.Key
	o.Key = "" // so that it is in nothing that might be printed
	quick, patient := o.HTTPClient, o.HTTPClient
	if o.HTTPClient == nil {
		quick, patient = defaultClients()
	}
	o.Retries = max(orDefault(o.Retries, defaultRetries), 0)
	o.LongestWait, o.Patience = orDefault(o.LongestWait, defaultWait), orDefault(o.Patience, defaultPatience)
	auth := func(h http.Header) {
		h.Set("Authorization", "Bearer "+key)
		h.Set("User-Agent", "lap-go/"+Version)
	}
	once := &sender{quick: quick, patient: patient, auth: auth}
	again := *once
	again.retries, again.longest = o.Retries, o.LongestWait
	base := strings.TrimRight(o.URL, "/")
	c, err := NewClientWithResponses(base, WithHTTPClient(&again))
	if err != nil {
		return nil, err
	}
	raw, err := NewClient(base, WithHTTPClient(once))
	if err != nil {
		return nil, err
	}
	return &API{ClientWithResponses: c, once: raw, auth: auth, dial: patient, url: base, o: o}, nil
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func defaultClients() (quick, patient *http.Client) {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // the program has one of its own
		return http.DefaultClient, http.DefaultClient
	}
	limited := base.Clone()
	limited.ResponseHeaderTimeout = answerTimeout
	return &http.Client{Transport: limited}, &http.Client{Transport: base.Clone()}
}

// Value is a value for an optional field that may be null.
func Value[T any](v T) nullable.Nullable[T] { return nullable.NewNullableWithValue(v) }

// Text is a message of plain text.
func Text(text string) MessageCreate { return MessageCreate{Text: Value(text)} }

// Text is the text of a reply, without reasoning and tools; the texts of several parts stand in lines of their own.
func (m Message) Text() string { return textOf(m.Parts) }

// Text is the text of a turn's reply, as that of a Message.
func (t Turn) Text() string { return textOf(t.Parts) }

func textOf(parts []MessagePart) string {
	var texts []string
	for _, p := range parts {
		if p.Type == partText && p.Text != nil {
			texts = append(texts, *p.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// pause waits, or returns why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// String names the server, and not the key.
func (a *API) String() string { return fmt.Sprintf("LAP at %s", a.url) }
