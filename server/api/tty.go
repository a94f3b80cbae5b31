package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/labstack/echo/v4"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

// opTerminal is the operation whose callers may have a token instead of the key.
const opTerminal = "openTerminal"

type terminals struct {
	sessions *session.Service
	origins  []string
	timeout  time.Duration // of one write to a client, and of its answer to a ping
}

func (h terminals) OpenTerminal(ctx context.Context, r gen.OpenTerminalRequestObject) (gen.OpenTerminalResponseObject, error) {
	req := httpRequest(ctx)
	for _, origin := range req.Header.Values("Origin") {
		if !slices.Contains(h.origins, origin) {
			return nil, &problem{status: http.StatusForbidden, code: codeOrigin, text: "this origin may not attach"}
		}
	}
	if err := h.sessions.CanAttach(ctx, r.SessionID); err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	if err := checkUpgrade(req); err != nil {
		return nil, err
	}
	t, err := h.sessions.OpenTerminal(ctx, r.SessionID, windowSize(r.Params))
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	return terminalAnswer{terminal: t, request: req, timeout: h.timeout}, nil
}

// windowSize is what the client says of its window, nil if it says nothing.
func windowSize(p gen.OpenTerminalParams) *session.TerminalSize {
	if p.Cols == nil || p.Rows == nil {
		return nil
	}
	return &session.TerminalSize{Cols: *p.Cols, Rows: *p.Rows}
}

// checkUpgrade refuses what websocket.Accept would refuse with an answer of its own.
func checkUpgrade(r *http.Request) error {
	if !r.ProtoAtLeast(1, 1) || !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket") {
		return &problem{status: http.StatusUpgradeRequired, code: codeUpgrade, text: "this is a WebSocket and needs an upgrade"}
	}
	var wrong []gen.ErrorDetail
	if r.Header.Get("Sec-WebSocket-Version") != "13" {
		wrong = append(wrong, gen.ErrorDetail{Field: "header/Sec-WebSocket-Version", Message: "must be 13"})
	}
	keys := r.Header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 || !isNonce(keys[0]) {
		wrong = append(wrong, gen.ErrorDetail{Field: "header/Sec-WebSocket-Key", Message: "must be 16 bytes in base64, once"})
	}
	if wrong != nil {
		return invalid(wrong)
	}
	return nil
}

func isNonce(key string) bool {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key))
	return err == nil && len(b) == 16
}

func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// terminalAnswer is an upgrade to a WebSocket and all that goes over it. It owns the terminal.
type terminalAnswer struct {
	terminal *session.Terminal
	request  *http.Request
	timeout  time.Duration
}

// VisitOpenTerminalResponse upgrades the connection and relays until either side ends.
func (a terminalAnswer) VisitOpenTerminalResponse(w http.ResponseWriter) error {
	defer a.terminal.Close()
	ws, err := websocket.Accept(w, a.request, &websocket.AcceptOptions{
		Subprotocols:       []string{session.TerminalProtocol},
		InsecureSkipVerify: true, // the origin was checked
	})
	if err != nil {
		return nil // the client is gone, for all that Accept checks was checked
	}
	r := &relay{ws: ws, terminal: a.terminal, strict: ws.Subprotocol() != "", timeout: a.timeout}
	r.run()
	return nil
}

type httpRequestKey struct{}

// withRequest gives the handler of an upgrade the request itself.
func withRequest(next gen.StrictHandlerFunc, operation string) gen.StrictHandlerFunc {
	if !strings.EqualFold(operation, opTerminal) {
		return next
	}
	return func(c echo.Context, request any) (any, error) {
		r := c.Request()
		c.SetRequest(r.WithContext(context.WithValue(r.Context(), httpRequestKey{}, r)))
		return next(c, request)
	}
}

func httpRequest(ctx context.Context) *http.Request {
	r, _ := ctx.Value(httpRequestKey{}).(*http.Request)
	return r
}
