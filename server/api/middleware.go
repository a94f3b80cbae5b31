package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
)

const headerRequestID = "X-Request-Id"

// observe gives every request its id, answers errors and panics, and counts and logs the result. It is the outermost middleware.
func observe(log *slog.Logger, m *metrics, table map[string]*operation) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := &run{began: time.Now(), id: c.Request().Header.Get(headerRequestID), chunked: c.Request().ProtoAtLeast(1, 1)}
			if !isToken(r.id, 128) {
				r.id = uuid.Must(uuid.NewV7()).String()
			}
			c.Response().Header().Set(headerRequestID, r.id)
			c.SetRequest(c.Request().WithContext(context.WithValue(c.Request().Context(), runKey{}, r)))
			m.inFlight.Inc()
			defer func() {
				if r.later == nil {
					m.inFlight.Dec()
				}
			}()

			status, cut := 0, false
			err := safely(next, c)
			if err != nil {
				cut = c.Response().Committed
				p := writeError(c, err)
				status = p.status
				logFault(log, r.id, p, err)
			}
			if status == 0 || c.Response().Committed {
				status = c.Response().Status
			}
			conclude := conclusion(log, m, r, c, find(table, c), status)
			if r.later != nil {
				r.later <- func(fault error) { m.inFlight.Dec(); conclude(fault) }
				return nil
			}
			conclude(nil)
			if cut || status == statusClientGone {
				// Without this, a client would read part of an answer as the whole, or an empty success.
				panic(http.ErrAbortHandler)
			}
			return nil
		}
	}
}

// conclusion counts and logs a request when its answer has ended. It holds nothing of the request.
func conclusion(log *slog.Logger, m *metrics, r *run, c echo.Context, op *operation, status int) func(fault error) {
	count, method, path := m.counter(c, op, status), c.Request().Method, shorten(c.Request().URL.Path, 256)
	return func(fault error) {
		if fault != nil {
			logFault(log, r.id, toProblem(fault), fault)
		}
		took := time.Since(r.began)
		count(took)
		log.LogAttrs(context.Background(), levelOf(op), "request handled",
			slog.String("method", method), slog.String("path", path),
			slog.Int("status", status), slog.Float64("duration_ms", float64(took.Microseconds())/1000),
			slog.String("request_id", r.id))
	}
}

// levelOf keeps health checks out of the usual log.
func levelOf(op *operation) slog.Level {
	if op != nil && (op.id == "getHealth" || op.id == "getReadiness") {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// logFault writes the cause of an answer that is the server's fault, which the answer itself does not name.
func logFault(log *slog.Logger, id string, p *problem, err error) {
	var crash *panicError
	switch {
	case errors.As(err, &crash):
		log.Error("request panicked", "request_id", id, "stack", string(crash.stack), "err", err)
	case p.status == http.StatusInternalServerError || p.code == codeDatabase:
		log.Error("request failed", "request_id", id, "err", err)
	}
}

type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func safely(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			panic(v)
		default:
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return next(c)
}

func shorten(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// isToken tells whether s has 1 to n characters of [A-Za-z0-9._-].
func isToken(s string, n int) bool {
	return s != "" && len(s) <= n && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r))
	})
}

func securityHeaders(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		return next(c)
	}
}

// cors lets browsers on the given origins use the API, with the key in a header and never with cookies.
func cors(origins []string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if len(origins) == 0 {
				return next(c)
			}
			r, h := c.Request(), c.Response().Header()
			h.Add("Vary", "Origin")
			origin := r.Header.Get("Origin")
			if !slices.Contains(origins, origin) {
				return next(c)
			}
			h.Set("Access-Control-Allow-Origin", origin)
			if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
				h.Set("Access-Control-Expose-Headers", "ETag, Location, Retry-After, "+headerReplayed+", "+headerRequestID)
				return next(c)
			}
			h.Set("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, "+headerKey+", If-Match, Last-Event-ID, Prefer, "+headerRequestID)
			h.Set("Access-Control-Max-Age", "600")
			return c.NoContent(http.StatusNoContent)
		}
	}
}

// accepts tells whether a token is for the terminal of a session.
type accepts func(token, sessionID string, now time.Time) bool

// authenticate lets the holder of the master key pass, everybody to operations that say so, and to a terminal the holder of its
// token. Paths under /api/ that do not exist need the key too.
func authenticate(masterKey string, terminal accepts, table map[string]*operation) echo.MiddlewareFunc {
	want := sha256.Sum256([]byte(masterKey))
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			op := find(table, c)
			anonymous := op != nil && op.anonymous
			if op == nil {
				path := c.Request().URL.Path
				anonymous = path != "/api" && !strings.HasPrefix(path, "/api/")
			}
			allowed := anonymous || holdsKey(c.Request(), want)
			if op != nil && op.id == opTerminal {
				allowed = mayAttach(c.Request(), c.Param("session_id"), want, terminal)
			}
			if allowed {
				return next(c)
			}
			return &problem{status: http.StatusUnauthorized, code: codeUnauthorized, text: "unauthorized", unread: true}
		}
	}
}

func holdsKey(r *http.Request, want [sha256.Size]byte) bool {
	token, ok := bearer(r)
	return ok && isKey(token, want)
}

// bearer is the one bearer token of a request.
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	return strings.TrimLeft(token, " "), strings.EqualFold(scheme, "Bearer")
}

func isKey(token string, want [sha256.Size]byte) bool {
	got := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// mayAttach tells whether a request may have the terminal of a session. It needs one credential, and all that it shows must be
// right; the key in a URL never is.
func mayAttach(r *http.Request, sessionID string, want [sha256.Size]byte, terminal accepts) bool {
	now := time.Now()
	inURL := r.URL.Query()["token"]
	if len(inURL) > 1 || len(inURL) == 1 && !terminal(inURL[0], sessionID, now) {
		return false
	}
	if len(inURL) == 1 && len(r.Header.Values("Authorization")) == 0 {
		return true
	}
	token, ok := bearer(r)
	return ok && (isKey(token, want) || terminal(token, sessionID, now))
}

// refuseOptions treats OPTIONS like any method that a path does not have.
func refuseOptions(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		allow, ok := c.Get(echo.ContextKeyHeaderAllow).(string)
		if c.Request().Method != http.MethodOptions || !ok {
			return next(c)
		}
		c.Response().Header().Set("Allow", allow)
		return echo.ErrMethodNotAllowed
	}
}
