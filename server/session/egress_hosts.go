package session

import (
	"net"
	"net/url"
	"regexp"
	"strings"
)

var (
	mcpName     = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}=`)
	placeholder = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)
	webAddress  = regexp.MustCompile(`https?://[^\s"'<>;,]+`)
)

// endpoint is where a web address leads, its placeholders filled as they are in the sandbox.
func endpoint(address string, env map[string]string) (host, port string, ok bool) {
	u, err := url.Parse(fill(address, env))
	if err != nil || u.Hostname() == "" {
		return "", "", false
	}
	port = u.Port()
	switch {
	case port != "":
	case strings.EqualFold(u.Scheme, "http"):
		port = "80"
	case strings.EqualFold(u.Scheme, "https"):
		port = "443"
	default:
		return "", "", false
	}
	return strings.ToLower(u.Hostname()), port, true
}

// Endpoint returns the host:port that a web address leads to, in the form that policies have; empty if it is none.
func Endpoint(address string) string {
	host, port, ok := endpoint(address, nil)
	if !ok {
		return ""
	}
	return net.JoinHostPort(host, port)
}

func fill(text string, env map[string]string) string {
	return placeholder.ReplaceAllStringFunc(text, func(p string) string { return env[p[2:len(p)-1]] })
}

// mcpURL is the address of an MCP server of the public API, empty for one that is a command.
func mcpURL(server string) string {
	server = server[len(mcpName.FindString(server)):]
	address, _, _ := strings.Cut(strings.TrimPrefix(server, "sse+"), "#")
	return address
}

// indexURLs are the addresses that the installation of requirements may need: those that they name, and those that pip is told of.
func indexURLs(requirements string, env map[string]string) []string {
	text := requirements
	for _, name := range []string{"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"} {
		text += "\n" + env[name]
	}
	return webAddress.FindAllString(fill(text, env), -1)
}
