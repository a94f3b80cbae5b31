package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	answerTimeout = time.Minute      // until an answer begins
	quietTimeout  = 45 * time.Second // of an event stream; a heartbeat comes every 15 s
	maxAnswer     = 64 << 20
)

// retries are the pauses before a request that did not get through is sent again. Every POST has a key that makes that safe.
var retries = []time.Duration{200 * time.Millisecond, 800 * time.Millisecond}

// api connects to the server of the settings.
func (s *shell) api() (*client.Client, error) {
	set, err := s.settings()
	if err != nil {
		return nil, err
	}
	return connect(set)
}

func connect(set settings) (*client.Client, error) {
	authorize := func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+set.Key)
		if r.Method == http.MethodPost && r.Header.Get("Idempotency-Key") == "" {
			r.Header.Set("Idempotency-Key", uuid.NewString())
		}
		return nil
	}
	return client.NewClient(set.URL, client.WithRequestEditorFn(authorize), client.WithHTTPClient(httpClient()))
}

func httpClient() *http.Client {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.ResponseHeaderTimeout = answerTimeout
	return &http.Client{Transport: &patient{base}}
}

// patient sends a request again if it got no answer, or was told to come again soon. It ends event streams that fell silent.
type patient struct{ base http.RoundTripper }

func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for i := 0; ; i++ {
		res, err := p.base.RoundTrip(r)
		if i == len(retries) || r.Context().Err() != nil || !again(r, res, err) {
			return p.watched(res), err
		}
		if res != nil {
			_ = res.Body.Close()
		}
		select {
		case <-time.After(retries[i]):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if r.GetBody != nil {
			r = r.Clone(r.Context())
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// again tells whether another try may help and can do no harm.
func again(r *http.Request, res *http.Response, err error) bool {
	if r.Body != nil && r.GetBody == nil {
		return false
	}
	return err != nil || res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "1"
}

func (p *patient) watched(res *http.Response) *http.Response {
	if res == nil {
		return nil
	}
	if media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); media == "text/event-stream" {
		body := res.Body
		res.Body = &watchedBody{ReadCloser: body, timer: time.AfterFunc(quietTimeout, func() { _ = body.Close() })}
	}
	return res
}

// watchedBody is a body that is closed when nothing came for a while: the connection is dead, though nobody said so.
type watchedBody struct {
	io.ReadCloser
	timer *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		b.timer.Reset(quietTimeout)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}

// done checks an answer that has nothing to read.
func done(res *http.Response, err error) error {
	_, err = into[json.RawMessage](res, err)
	return err
}

// into reads an answer.
func into[T any](res *http.Response, err error) (T, error) {
	var v T
	if err != nil {
		return v, unreachable(err)
	}
	if err := client.Check(res); err != nil {
		return v, refused(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, errors.New("the server's answer is not one of LAP")
	}
	return v, nil
}

// unreachable leaves a cancelled request as it is and says of any other what it could not do.
func unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return fmt.Errorf("cannot reach the server: %w", err)
}

func refused(err error) error {
	var status *client.StatusError
	if errors.As(err, &status) && status.Status == http.StatusUnauthorized {
		return errors.New("the server does not accept the key; run lap login")
	}
	return err
}
