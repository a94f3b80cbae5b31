package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	openCodeUser  = "opencode"
	maxAnswer     = 64 << 20         // of one answer
	maxEventLine  = 16 << 20         // a longer event is skipped
	streamSilence = 40 * time.Second // opencode sends a heartbeat every 10 s
	historyPage   = 20               // messages asked for at first
	historyMax    = 1280             // messages asked for at most
)

// The wire types hold only the fields that are used.

type openCodeEvent struct {
	Type       string          `json:"type"`
	Properties json.RawMessage `json:"properties"`
}

// Event types that this client makes up: something was missed.
const eventsMissed = "lap.missed"

type openCodeInfo struct {
	ID        string         `json:"id"`
	SessionID string         `json:"sessionID"`
	Role      string         `json:"role"`
	Summary   any            `json:"summary"` // of an assistant message: true if it sums up the conversation to shorten it
	Finish    string         `json:"finish"`
	Error     *openCodeError `json:"error"`
	Cost      float64        `json:"cost"`
	Tokens    openCodeTokens `json:"tokens"`
	Time      openCodeTime   `json:"time"`
}

type openCodeTime struct {
	End       int64 `json:"end"`
	Completed int64 `json:"completed"`
}

type openCodeTokens struct {
	Input     float64 `json:"input"`
	Output    float64 `json:"output"`
	Reasoning float64 `json:"reasoning"`
	Cache     struct {
		Read  float64 `json:"read"`
		Write float64 `json:"write"`
	} `json:"cache"`
}

type openCodeError struct {
	Name string `json:"name"`
	Data struct {
		Message    string `json:"message"`
		StatusCode int    `json:"statusCode"`
	} `json:"data"`
}

type openCodePart struct {
	ID        string       `json:"id"`
	SessionID string       `json:"sessionID"`
	MessageID string       `json:"messageID"`
	Type      string       `json:"type"`
	Text      string       `json:"text"`
	Time      openCodeTime `json:"time"`
	Tool      string       `json:"tool"`
	CallID    string       `json:"callID"`
	State     struct {
		Status string          `json:"status"`
		Input  json.RawMessage `json:"input"`
		Output string          `json:"output"`
		Error  string          `json:"error"`
	} `json:"state"`
}

type openCodeMessage struct {
	Info  openCodeInfo   `json:"info"`
	Parts []openCodePart `json:"parts"`
}

type openCodeStatus struct {
	Type    string  `json:"type"` // retry: the gateway refused a request, and it will be sent again
	Attempt int     `json:"attempt"`
	Message string  `json:"message"`
	Next    float64 `json:"next"` // when, in milliseconds since 1970
}

type openCodePrompt struct {
	MessageID string          `json:"messageID,omitempty"` // empty: opencode makes one
	Model     openCodeChoice  `json:"model"`
	NoReply   bool            `json:"noReply,omitempty"`
	Parts     []openCodeInput `json:"parts"`
}

type openCodeChoice struct {
	ProviderID string `json:"providerID"`
	ModelID    string `json:"modelID"`
}

type openCodeInput struct {
	ID       string `json:"id,omitempty"`
	Type     string `json:"type"`
	Text     string `json:"text,omitempty"`
	Mime     string `json:"mime,omitempty"`
	Filename string `json:"filename,omitempty"`
	URL      string `json:"url,omitempty"`
}

func (i openCodeInput) isFile() bool { return i.Type == "file" }

// openCodeAPI is a client of opencode's server.
type openCodeAPI struct {
	base, password string
	http           *http.Client
}

func newOpenCodeAPI(base, password string) *openCodeAPI {
	return &openCodeAPI{base: base, password: password, http: &http.Client{Transport: &http.Transport{Proxy: nil, DisableCompression: true}}}
}

func (a *openCodeAPI) close() { a.http.CloseIdleConnections() }

// refusal is an answer with an error status.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string {
	if r.message == "" {
		return fmt.Sprintf("opencode answered %d", r.status)
	}
	return fmt.Sprintf("opencode answered %d: %s", r.status, r.message)
}

func (a *openCodeAPI) get(ctx context.Context, path string, out any) error {
	return a.call(ctx, http.MethodGet, path, nil, out)
}

// post sends a body, and ignores the answer if out is nil.
func (a *openCodeAPI) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return a.call(ctx, http.MethodPost, path, body, out)
}

func (a *openCodeAPI) call(ctx context.Context, method, path string, body []byte, out any) error {
	resp, err := a.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	limited := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode >= 300 {
		return refused(resp.StatusCode, limited)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, limited)
		return err
	}
	if err := json.NewDecoder(limited).Decode(out); err != nil {
		return fmt.Errorf("read opencode's answer to %s: %w", path, err)
	}
	return nil
}

func (a *openCodeAPI) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(openCodeUser, a.password)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return a.http.Do(req)
}

func refused(status int, body io.Reader) error {
	b, _ := io.ReadAll(io.LimitReader(body, 4<<10)) // the status says enough
	var e openCodeError
	if json.Unmarshal(b, &e) == nil && e.Data.Message != "" {
		return &refusal{status, e.Data.Message}
	}
	return &refusal{status, strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")}
}

// events reads the event stream and returns when it breaks. An event too long to read is replaced by eventsMissed.
func (a *openCodeAPI) events(ctx context.Context, handle func(openCodeEvent)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(streamSilence, cancel)
	defer silence.Stop()
	resp, err := a.do(ctx, http.MethodGet, "/event", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refused(resp.StatusCode, resp.Body)
	}
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, tooLong, err := readLine(lines)
		if err != nil {
			return err
		}
		silence.Reset(streamSilence)
		if tooLong {
			handle(openCodeEvent{Type: eventsMissed})
			continue
		}
		data, isData := bytes.CutPrefix(line, []byte("data: "))
		var e openCodeEvent
		if isData && json.Unmarshal(data, &e) == nil {
			handle(e)
		}
	}
}

// readLine reads a line without its end; what it returns is good until the next call.
func readLine(r *bufio.Reader) (line []byte, tooLong bool, err error) {
	line, err = r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line)
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		var more []byte
		more, err = r.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(more) > maxEventLine; !tooLong {
			line = append(line, more...)
		}
	}
	return bytes.TrimRight(line, "\r\n"), tooLong, err
}

// historySince returns the conversation from a message on, oldest first; nothing if opencode does not have the message.
func (a *openCodeAPI) historySince(ctx context.Context, session, messageID string) ([]openCodeMessage, error) {
	var all []openCodeMessage
	for limit := historyPage; limit <= historyMax; limit *= 4 {
		all = nil
		if err := a.get(ctx, fmt.Sprintf("/session/%s/message?limit=%d", session, limit), &all); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(m openCodeMessage) bool { return m.Info.ID == messageID })
		if i >= 0 {
			return all[i:], nil
		}
		if len(all) < limit {
			return nil, nil
		}
	}
	return nil, nil
}
