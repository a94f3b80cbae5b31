package chaos_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// whole passes on answers that came whole, for only those can be checked; streams may break off.
type whole struct{ base http.RoundTripper }

func (b whole) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.base.RoundTrip(r)
	if err != nil || strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return res, err
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("answer broke off: %w", err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// subject is a session under test and what clients learned of it.
type subject struct {
	id string

	mu      sync.Mutex // guards the rest
	tires   bool       // it is suspended after a moment without messages, and gets few
	sent    []*message
	subs    []*subscriber
	stream  [][]event
	mustEnd bool
}

// client talks: it sends one message after the other to any session until talking ends, and finds out about each, within life,
// whether it was stored.
func (w *world) client(talking, life context.Context, random *rand.Rand) {
	for pause(talking, time.Duration(random.IntN(1500))*time.Millisecond) {
		s := w.anySubject(random)
		if s == nil {
			continue
		}
		w.deliver(life, random, s, w.newMessage(random, s))
	}
}

func (w *world) anySubject(random *rand.Rand) *subject {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.subjects) == 0 {
		return nil
	}
	s := w.subjects[random.IntN(len(w.subjects))]
	if s.tires && random.IntN(10) > 0 {
		return nil
	}
	return s
}

func (w *world) newMessage(random *rand.Rand, s *subject) *message {
	w.mu.Lock()
	w.messages++
	m := &message{n: w.messages}
	w.mu.Unlock()
	if random.IntN(8) > 0 {
		m.key = fmt.Sprintf("chaos-%d", m.n)
	}
	switch random.IntN(8) {
	case 0:
		m.text = fmt.Sprintf("RUN: sleep 0.%d; echo %s and %s", random.IntN(10), m.begin(), m.end())
	case 1, 2:
		m.text = fmt.Sprintf("%s %s %s %s", m.begin(), slowly, strings.Repeat("on and on ", 1+random.IntN(12)), m.end())
	default:
		m.text = fmt.Sprintf("%s wörter %d %s", m.begin(), random.IntN(1000), m.end())
	}
	m.picture = random.IntN(8) == 0
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, m)
	return m
}

// dot is a picture of one.
var dot = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		panic(err)
	}
	return b.Bytes()
})

func (m *message) body() (b client.MessageCreate, err error) {
	if !m.picture {
		b.Text = nullable.NewNullableWithValue(m.text)
		return b, nil
	}
	var words, picture client.MessagePartCreate
	if err = words.FromTextPartCreate(client.TextPartCreate{Type: "text", Text: m.text}); err == nil {
		err = picture.FromImagePartCreate(client.ImagePartCreate{Type: "image", Source: client.ImageSource{Type: "base64", MediaType: "image/png", Data: dot()}})
	}
	b.Parts = nullable.NewNullableWithValue([]client.MessagePartCreate{words, picture})
	return b, err
}

// deliver sends a message until it is clear whether it was stored. Without a key that may never become clear.
func (w *world) deliver(life context.Context, random *rand.Rand, s *subject, m *message) {
	w.count("messages")
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(life, 40*time.Second)
		if random.IntN(8) == 0 && try < 3 { // the client vanishes
			cancel()
			ctx, cancel = context.WithTimeout(life, time.Duration(random.IntN(400))*time.Millisecond)
		}
		leave := w.register(cancel)
		err := w.attempt(ctx, random.IntN(3), s, m)
		leave()
		cancel()
		if err == nil {
			return
		}
		w.note("message %d to %s, try %d: %v", m.n, s.id, try, err)
		if m.key == "" {
			w.count("unclear without key")
			return
		}
		w.count("retries")
		if !pause(life, time.Duration(50+random.IntN(400))*time.Millisecond) {
			w.violated(s.id, violation{"stuck", fmt.Sprintf("message %d got no clear answer: %v", m.n, err)})
			return
		}
	}
}

// register makes a request one that can be broken off with all others.
func (w *world) register(cancel context.CancelFunc) (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nstreams++
	n := w.nstreams
	w.streams[n] = cancel
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.streams, n)
	}
}

// attempt sends a message once, in one of three ways. No error means that all is clear.
func (w *world) attempt(ctx context.Context, way int, s *subject, m *message) error {
	text, err := m.body()
	if err != nil {
		return err
	}
	var key *string
	if m.key != "" {
		key = &m.key
	}
	if way == 2 {
		return w.attemptStream(ctx, s, m, key, text)
	}
	params := &client.SendMessageParams{IdempotencyKey: key}
	if way == 1 {
		async := "respond-async"
		params.Prefer = &async
	}
	r, err := w.api.SendMessageWithResponse(ctx, s.id, params, text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.JSON200 != nil:
		m.accept(r.JSON200.Info.TurnID)
		m.answers = append(m.answers, answer{"ended", r.JSON200.Parts})
	case r.JSON202 != nil:
		m.accept(r.JSON202.ID)
	case r.StatusCode() == http.StatusBadGateway:
		location := r.HTTPResponse.Header.Get("Location")
		m.accept(location[strings.LastIndexByte(location, '/')+1:])
		m.answers = append(m.answers, answer{"failed", nil})
	default:
		return w.refusal(m, r.StatusCode(), r.Body)
	}
	return nil
}

// refusal takes note of an answer that is no success.
func (w *world) refusal(m *message, status int, body []byte) error {
	w.count(fmt.Sprintf("answers %d", status))
	if status >= 400 && status < 500 && status != http.StatusRequestTimeout {
		m.refused = true
		return nil
	}
	if status == http.StatusInternalServerError {
		w.note("ANSWER 500 to message %d: %s", m.n, body)
	}
	return fmt.Errorf("status %d: %s", status, body)
}

func (m *message) accept(turn string) {
	m.accepted = true
	for _, known := range m.turns {
		if known == turn {
			return
		}
	}
	m.turns = append(m.turns, turn)
}

func (w *world) attemptStream(ctx context.Context, s *subject, m *message, key *string, text client.MessageCreate) error {
	r, err := w.api.ClientInterface.(*client.Client).StreamMessage(ctx, s.id, &client.StreamMessageParams{IdempotencyKey: key}, text)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		return w.refusal(m, r.StatusCode, body)
	}
	var seen []event
	err = readEvents(r.Body, func(e event) { seen = append(seen, e) })
	s.mu.Lock()
	defer s.mu.Unlock()
	m.accepted = true // the answer begins when the message is stored
	if len(seen) == 0 {
		return err
	}
	m.accept(seen[0].turn)
	s.stream = append(s.stream, seen)
	if last := seen[len(seen)-1]; last.endsTurn() {
		m.answers = append(m.answers, answer{strings.TrimPrefix(last.typ, "turn."), nil})
		return nil
	}
	return fmt.Errorf("stream broke off: %w", err)
}

// readEvents reads events until the stream ends or breaks; an event that did not come whole does not count.
func readEvents(r io.Reader, emit func(event)) error {
	for in := bufio.NewReader(r); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		data, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "data: ")
		if !ok {
			continue
		}
		if !json.Valid([]byte(data)) {
			return fmt.Errorf("event %q is not JSON", data)
		}
		e, err := parseEvent(data)
		if err != nil {
			return err
		}
		emit(e)
	}
}
