package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	stopTimeout = time.Minute
	tries       = 2               // again, for a request that did not get through
	longestWait = 2 * time.Second // at the server's wish; a person would rather know
	patience    = 2 * time.Minute // for a stream that does not get on
)

// api connects to the server of the settings.
func (s *shell) api() (*client.API, error) {
	set, err := s.settings()
	if err != nil {
		return nil, err
	}
	return s.connect(set)
}

func (s *shell) connect(set settings) (*client.API, error) {
	return client.New(client.Options{
		URL: set.URL, Key: set.Key, Retries: tries, LongestWait: longestWait, Patience: patience,
		Lost: func(error) { s.say("[connection lost, trying again]") },
	})
}

// done checks an answer that has nothing to read.
func done(res *http.Response, err error) error {
	_, err = into[json.RawMessage](res, err)
	return err
}

// into reads an answer.
func into[T any](res *http.Response, err error) (T, error) {
	v, err := client.Decode[T](res, err)
	return v, explained(err)
}

// explained says of an error what a person can do about it.
func explained(err error) error {
	var status *client.StatusError
	var ended *client.EndedError
	var own usageError
	switch {
	case err == nil, errors.Is(err, client.ErrForeign), errors.As(err, &ended), errors.As(err, &own):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, errInterrupted):
		return errInterrupted
	case errors.Is(err, client.CodeUnauthorized):
		return errors.New("the server does not accept the key; run lap login")
	case errors.As(err, &status):
		return err
	}
	return fmt.Errorf("cannot reach the server: %w", err)
}
