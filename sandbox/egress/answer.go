package egress

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// answer is what a client is told that gets no connection.
type answer struct {
	Status int         `json:"-"`
	Error  string      `json:"error"`
	Code   string      `json:"code"`
	Rule   policy.Rule `json:"rule,omitempty"`
	Entry  string      `json:"entry,omitempty"`
	Host   string      `json:"host,omitempty"`
}

func denial(h *head, d policy.Decision) answer {
	return answer{
		Status: http.StatusForbidden, Code: "egress_denied", Rule: d.Rule, Entry: d.Entry, Host: h.host.String(),
		Error: fmt.Sprintf("%s is closed to this sandbox: %s", h.host, d.Reason),
	}
}

const (
	refuseTimeout = 2 * time.Second // until the client has read an answer that ends its connection
	maxDrain      = 256 << 10       // bytes that it may still send meanwhile
)

// refuse answers and waits a little for the client to read it: closing at once, with bytes of it unread, would reset the connection.
func refuse(c net.Conn, a answer) {
	body, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings always marshal
	}
	challenge := ""
	if a.Status == http.StatusProxyAuthRequired {
		challenge = "Proxy-Authenticate: Bearer realm=\"lap\"\r\n"
	}
	if c.SetDeadline(time.Now().Add(refuseTimeout)) != nil {
		return
	}
	_, err = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s",
		a.Status, http.StatusText(a.Status), len(body), challenge, body)
	if err == nil && closeWrite(c) == nil {
		_, _ = io.CopyN(io.Discard, c, maxDrain) // an end or a failure are equally good
	}
}

// closeWrite ends one direction of a connection, or all of it where that cannot be done.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
