// Package gateway makes and deletes keys of a LiteLLM gateway, so that what runs in a sandbox has a key of its own. It must not
// know sessions. A Keys is safe for concurrent use.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	within    = 15 * time.Second
	maxAnswer = 64 << 10 // bytes
	maxWords  = 300      // bytes of what the gateway says of a failure
)

// Keys manages the keys of one gateway.
type Keys struct {
	base   string
	master string
	budget float64
	http   *http.Client
}

// New returns what manages the keys of the gateway at a URL, with or without /v1, for the holder of its master key. Each key made may
// spend budget, in US dollars; 0: any amount.
func New(base, master string, budget float64) *Keys {
	return &Keys{
		base: strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1"), master: master, budget: budget,
		http: &http.Client{
			Timeout:       within,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the key is for this gateway
		},
	}
}

// Key is a key to be.
type Key struct {
	Alias    string // its name, of which there is one
	Value    string // begins with sk-
	Model    string // the only one that it may use
	Metadata map[string]string
}

// Refused says that the gateway will not make a key, however often it is asked.
type Refused struct{ error }

// Make makes a key. One with the same alias, which a call that was cut short may have made, is replaced. The error is a *Refused or
// one that may pass.
func (k *Keys) Make(ctx context.Context, key Key) error {
	body := map[string]any{"key": key.Value, "key_alias": key.Alias, "models": []string{key.Model}, "metadata": key.Metadata}
	if k.budget > 0 {
		body["max_budget"] = k.budget
	}
	status, words, err := k.post(ctx, "/key/generate", body, key.Value)
	if err == nil && status >= 400 && status != http.StatusUnauthorized && status != http.StatusForbidden {
		if err := k.Delete(ctx, key.Alias); err != nil {
			return err
		}
		status, words, err = k.post(ctx, "/key/generate", body, key.Value)
	}
	switch {
	case err != nil:
		return fmt.Errorf("make a key of the model gateway: %w", err)
	case status < 300:
		return nil
	}
	err = fmt.Errorf("the model gateway makes no key: it answers %d%s", status, words)
	if status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
		return &Refused{err}
	}
	return err
}

// Delete deletes a key. One that is not there is no error.
func (k *Keys) Delete(ctx context.Context, alias string) error {
	status, words, err := k.post(ctx, "/key/delete", map[string]any{"key_aliases": []string{alias}})
	switch {
	case err != nil:
		return fmt.Errorf("delete a key of the model gateway: %w", err)
	case status < 300, status == http.StatusNotFound, status == http.StatusBadRequest:
		return nil
	}
	return fmt.Errorf("the model gateway deletes no key: it answers %d%s", status, words)
}

// post returns the status and, for a failure, what the gateway says, without secrets.
func (k *Keys) post(ctx context.Context, path string, body any, secrets ...string) (status int, words string, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, k.base+path, bytes.NewReader(b))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+k.master)
	r.Header.Set("Content-Type", "application/json")
	res, err := k.http.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, "", err
	}
	if res.StatusCode >= 300 {
		words = said(answer)
		for _, secret := range append(secrets, k.master) {
			words = strings.ReplaceAll(words, secret, "********")
		}
	}
	return res.StatusCode, words, nil
}

// said is the message in an answer, as the end of a sentence.
func said(answer []byte) string {
	var a struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(answer, &a) != nil || a.Error.Message == "" {
		return ""
	}
	words := strings.Join(strings.Fields(a.Error.Message), " ")
	return ": " + strings.ToValidUTF8(words[:min(len(words), maxWords)], "")
}
