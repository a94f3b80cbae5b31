package egress

import (
	"bytes"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// NewSystemResolver asks one server.
func NewSystemResolver(server string) SystemResolver { return SystemResolver{server: server} }

// ReadHead returns what a request is for, and how much of it was read.
func ReadHead(b []byte) (method string, h policy.Host, port uint16, raw []byte, err error) {
	head, err := readHead(bytes.NewReader(b))
	if err != nil {
		return "", policy.Host{}, 0, nil, err
	}
	return head.method, head.host, head.port, head.raw, nil
}

// ServerName reads the beginning of TLS.
func ServerName(b []byte) (string, []byte, error) { return serverName(bytes.NewReader(b)) }
