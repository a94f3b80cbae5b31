package egress

import (
	"bytes"
	"errors"
	"io"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

const maxHead = 64 << 10 // bytes of a request's line and fields

// head is the head of a request that has one reading only.
type head struct {
	method     string
	connect    bool
	host       policy.Host
	port       uint16
	credential string // as presented; empty if there is none
	raw        []byte // all of it
	rest       []byte // what was read beyond it
}

// errHead is a request that is refused whatever the policy says. Its text holds nothing of the request.
type errHead string

func (e errHead) Error() string { return string(e) }

const (
	errHeadTooLong = errHead("the request's head is longer than 64 KiB")
	errHeadForm    = errHead("the request's head is not of HTTP/1.1's form")
	errTarget      = errHead("the target must be host:port after CONNECT, else an http:// URL with a host")
	errHostField   = errHead("the Host field must be there once and name the target")
	errLength      = errHead("the request has more than one length, or one that cannot be read")
	errConnectBody = errHead("CONNECT has no body")
	errUpgrade     = errHead("only websocket can be upgraded to")
	errField       = errHead("a field that names the proxy's own business is there twice or cannot be read")
)

// readHead reads up to the end of a head and no further than it must.
func readHead(r io.Reader) (*head, error) {
	buf := make([]byte, 0, 1024)
	for {
		from := max(0, len(buf)-3)
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if i := bytes.Index(buf[from:], []byte("\r\n\r\n")); i >= 0 {
			end := from + i + 4
			if end > maxHead {
				return nil, errHeadTooLong
			}
			h, err := parseHead(buf[:end])
			if err != nil {
				return nil, err
			}
			h.rest = buf[end:]
			return h, nil
		}
		if len(buf) >= maxHead {
			return nil, errHeadTooLong
		}
		if err != nil {
			return nil, err
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 4*cap(buf)), buf...)
		}
	}
}

// parseHead reads a head that ends in an empty line. It accepts what has one reading in every implementation: lines that end in
// CR LF and have neither of the two inside, tokens right before the colon, no folded line, at most one length.
func parseHead(raw []byte) (*head, error) {
	lines := strings.Split(strings.TrimSuffix(string(raw), "\r\n\r\n"), "\r\n")
	h := &head{raw: raw}
	parts := strings.Split(lines[0], " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return nil, errHeadForm
	}
	h.method, h.connect = parts[0], parts[0] == "CONNECT"
	f, err := parseFields(lines[1:])
	if err != nil {
		return nil, err
	}
	if err := h.setTarget(parts[1], f["Host"], parts[2] == "HTTP/1.1"); err != nil {
		return nil, err
	}
	if err := f.checkFraming(h.connect); err != nil {
		return nil, err
	}
	if err := f.checkUpgrade(h.method, parts[2]); err != nil {
		return nil, err
	}
	h.credential, err = f.credential()
	return h, err
}

// fields are the fields of a head by their canonical names.
type fields map[string][]string

func parseFields(lines []string) (fields, error) {
	f := fields{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || !isValue(value) {
			return nil, errHeadForm
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		f[name] = append(f[name], strings.Trim(value, " \t"))
	}
	return f, nil
}

// setTarget reads the target. In an absolute URL the host must be that of the Host field, which some servers go by.
func (h *head) setTarget(target string, hosts []string, required bool) error {
	authority, defaultPort := target, uint16(0)
	if !h.connect {
		var err error
		if authority, err = urlAuthority(target); err != nil {
			return err
		}
		defaultPort = 80
	}
	var err error
	if h.host, h.port, err = policy.ParseAuthority(authority, defaultPort); err != nil {
		return errTarget
	}
	if len(hosts) > 1 || len(hosts) == 0 && required {
		return errHostField
	}
	if len(hosts) == 1 {
		if defaultPort == 0 {
			defaultPort = h.port // clients leave the port of the scheme inside the tunnel out
		}
		if host, port, err := policy.ParseAuthority(hosts[0], defaultPort); err != nil || host != h.host || port != h.port {
			return errHostField
		}
	}
	return nil
}

// urlAuthority returns the authority of an http:// URL, which url.Parse must read alike.
func urlAuthority(target string) (string, error) {
	if len(target) < 7 || !strings.EqualFold(target[:7], "http://") || strings.ContainsAny(target, "#\\") || !isVisible(target) {
		return "", errTarget
	}
	authority := target[7:]
	if i := strings.IndexAny(authority, "/?"); i >= 0 {
		authority = authority[:i]
	}
	if u, err := url.ParseRequestURI(target); err != nil || u.User != nil || u.Host != authority || u.Opaque != "" {
		return "", errTarget
	}
	return authority, nil
}

func (f fields) checkFraming(connect bool) error {
	lengths, codings := f["Content-Length"], f["Transfer-Encoding"]
	if connect && len(lengths)+len(codings) > 0 {
		return errConnectBody
	}
	if len(lengths)+len(codings) > 1 {
		return errLength
	}
	if len(lengths) == 1 && (strings.Trim(lengths[0], "0123456789") != "" || lengths[0] == "" || len(lengths[0]) > 18) {
		return errLength
	}
	if len(codings) == 1 && !strings.EqualFold(codings[0], "chunked") {
		return errLength
	}
	return nil
}

func (f fields) checkUpgrade(method, proto string) error {
	if len(f["Http2-Settings"]) > 0 || len(f["Upgrade"]) > 1 || len(f["Connection"]) > 1 {
		return errUpgrade
	}
	if len(f["Upgrade"]) == 0 {
		return nil
	}
	if !strings.EqualFold(f["Upgrade"][0], "websocket") || method != "GET" || proto != "HTTP/1.1" || len(f["Content-Length"])+len(f["Transfer-Encoding"]) > 0 {
		return errUpgrade
	}
	return nil
}

// credential returns the token of Proxy-Authorization: Bearer.
func (f fields) credential() (string, error) {
	values := f["Proxy-Authorization"]
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if len(values) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errField
	}
	return token, nil
}

func isToken(s string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(marks, c) >= 0) {
			return false
		}
	}
	return s != ""
}

// isValue tells whether s has no control character but tabs.
func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isRefusal tells whether err is about the form of a request, and not about its connection.
func isRefusal(err error) bool {
	var e errHead
	return errors.As(err, &e)
}
