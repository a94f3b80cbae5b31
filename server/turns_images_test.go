package main_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// webp is a picture of one dot; the standard library cannot make one.
const webp = "UklGRiQAAABXRUJQVlA4IBgAAAAwAQCdASoBAAEAAwA0JaQAA3AA/vuUAAA="

// pictures are ten different images, of all the types that a message may have.
func pictures(t *testing.T) (types []string, data [][]byte) {
	t.Helper()
	for i := range 10 {
		dots := image.NewPaletted(image.Rect(0, 0, 8+i, 8), color.Palette{color.Black, color.White})
		var b bytes.Buffer
		var err error
		switch kind := []string{"image/png", "image/jpeg", "image/gif", "image/webp"}[i%4]; kind {
		case "image/png":
			err = png.Encode(&b, dots)
		case "image/jpeg":
			err = jpeg.Encode(&b, dots, nil)
		case "image/gif":
			err = gif.Encode(&b, dots, nil)
		default:
			var dot []byte
			dot, err = base64.StdEncoding.DecodeString(webp)
			b.Write(dot)
		}
		if err != nil {
			t.Fatal(err)
		}
		types, data = append(types, []string{"image/png", "image/jpeg", "image/gif", "image/webp"}[i%4]), append(data, b.Bytes())
	}
	return types, data
}

func TestImagesReachTheModelAsTheyWereSent(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	id := s.open(demoAgent(), client.SessionCreate{})
	types, data := pictures(t)
	parts := []any{map[string]any{"type": "text", "text": "look at these"}}
	var sums []string
	for i := range data {
		parts = append(parts, map[string]any{"type": "image", "source": map[string]any{"type": "base64", "media_type": types[i], "data": data[i]}})
		sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(data[i])))
	}
	body, err := json.Marshal(map[string]any{"parts": parts})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.api.SendMessageWithBodyWithResponse(t.Context(), id, nil, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	m := must(t, "send images", r.JSON200, r.HTTPResponse, r.Body, err)
	if len(m.Parts) != 1 || !strings.Contains(*m.Parts[0].Text, "10 image(s): "+strings.Join(types, ", ")+".") {
		t.Fatalf("reply %s, %+v", *m.Parts[0].Text, m.Info)
	}
	requests := s.gateway.Requests()
	last := requests[len(requests)-1].Messages
	if got := last[len(last)-1]; !slices.Equal(got.Images, types) || !slices.Equal(got.Sums, sums) {
		t.Errorf("the gateway was sent %v %v, not %v", got.Images, got.Sums, sums)
	}

	// The figures are those of the gateway, and of this turn alone.
	asked := requests[len(requests)-1]
	if tokens := m.Info.Tokens; tokens.Input+tokens.CacheRead != int64(asked.PromptTokens) || tokens.Output != int64(asked.CompletionTokens) {
		t.Errorf("tokens %+v, the gateway counted %d and %d", tokens, asked.PromptTokens, asked.CompletionTokens)
	}
	m = s.say(id, "RUN: echo twice")
	var prompt, completion int
	for _, q := range s.gateway.Requests()[len(requests):] {
		prompt, completion = prompt+q.PromptTokens, completion+q.CompletionTokens
	}
	if tokens := m.Info.Tokens; tokens.Input != int64(prompt) || tokens.Output != int64(completion) || len(s.gateway.Requests()) != len(requests)+2 {
		t.Errorf("tokens %+v of two calls, the gateway counted %d and %d", tokens, prompt, completion)
	}
	if got := s.turn(id, m.Info.TurnID); got.Info.Tokens != m.Info.Tokens || got.Info.DurationMs != m.Info.DurationMs || m.Info.DurationMs <= 0 {
		t.Errorf("turn %+v, message %+v", got.Info, m.Info)
	}
}
