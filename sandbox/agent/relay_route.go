package agent

import (
	"bytes"
	"context"
	"net"
	"strings"
	"time"
)

// dialRoute returns a connection to the route if it leads to a target, and nil if the proxy has to be asked.
func (r *relay) dialRoute(target string) net.Conn {
	if r.route == "" || target != r.route {
		return nil
	}
	up, err := dialPath(r.ctx, r.routeSocket)
	if err != nil {
		return nil // it is gone; the proxy leads there too
	}
	return up
}

// passRoute serves a request for the route's host, and reports whether it was one.
func (r *relay) passRoute(c net.Conn, head, rest []byte) bool {
	target, tunnel := requestTarget(head)
	up := r.dialRoute(target)
	if up == nil {
		return false
	}
	if !tunnel {
		r.carry(c, up, append(forRoute(head), rest...))
		return true
	}
	if c.SetWriteDeadline(time.Now().Add(answerWithin)) == nil {
		if _, err := c.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err == nil && c.SetWriteDeadline(time.Time{}) == nil {
			r.carry(c, up, rest)
			return true
		}
	}
	_ = up.Close()
	return true
}

// carry sends the first bytes of a tool, and joins it to a connection that it closes.
func (r *relay) carry(c, up net.Conn, first []byte) {
	defer up.Close()
	defer context.AfterFunc(r.ctx, func() { up.Close() })()
	if r.send(up, first) == nil {
		join(c, up)
	}
}

// requestTarget is the host:port that a request is for, in lower case; empty if that is not plain to see.
func requestTarget(head []byte) (target string, tunnel bool) {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	parts := strings.Split(string(line), " ")
	if len(parts) != 3 {
		return "", false
	}
	if parts[0] == "CONNECT" {
		return strings.ToLower(parts[1]), true
	}
	rest, ok := strings.CutPrefix(parts[1], "http://")
	if !ok {
		return "", false
	}
	authority, _, _ := strings.Cut(rest, "/")
	if !strings.Contains(authority, ":") {
		authority += ":80"
	}
	return strings.ToLower(authority), false
}

// forRoute returns a head for the host itself, which takes the absolute form too. The connection is for this one request: the next
// may be for another host.
func forRoute(head []byte) []byte {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	out := append(append(make([]byte, 0, len(head)+32), line...), "\r\nConnection: close\r\n"...)
	for len(fields) > 0 {
		field, more, _ := bytes.Cut(fields, []byte("\r\n"))
		name, _, _ := bytes.Cut(field, []byte(":"))
		switch strings.ToLower(string(bytes.TrimSpace(name))) {
		case "proxy-authorization", "proxy-connection", "connection", "keep-alive":
		default:
			out = append(append(out, field...), "\r\n"...)
		}
		fields = more
	}
	return out
}
