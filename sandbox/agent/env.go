package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// environment is what the harness and everything it starts see, and nothing else of sandboxd's own. What sandboxd fixes wins over
// what it was given; PATH, LANG and TERM are only defaults.
func (s *session) environment(given map[string]string, venv string) []string {
	env := map[string]string{"PATH": os.Getenv("PATH"), "LANG": "C.UTF-8", "TERM": "xterm-256color"}
	for k, v := range given {
		env[k] = v
	}
	delete(env, "GIT_TOKEN")
	env["HOME"] = filepath.Join(s.c.Root, homeDir)
	env["TMPDIR"] = filepath.Join(s.c.Root, tmpDir)
	env["LAP_SANDBOX_ID"] = s.c.SandboxID
	s.setProxy(env)
	if venv != "" {
		env["VIRTUAL_ENV"] = venv
		env["PATH"] = filepath.Join(venv, "bin") + string(filepath.ListSeparator) + env["PATH"]
	}
	return flat(env)
}

// toolEnvironment is what git sees: the way out, if there is a special one, and nothing of the agent's own settings.
func (s *session) toolEnvironment(given map[string]string, home string) map[string]string {
	env := map[string]string{
		"PATH": os.Getenv("PATH"), "LC_ALL": "C.UTF-8", "HOME": home, "LAP_SANDBOX_ID": s.c.SandboxID,
	}
	if ca := os.Getenv("SSL_CERT_FILE"); ca != "" {
		env["GIT_SSL_CAINFO"] = ca
	}
	for k, v := range given {
		switch strings.ToUpper(k) {
		case "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO":
			env[k] = v
		}
	}
	s.setProxy(env)
	return env
}

// loopback is what no proxy may be asked for: the sandbox's own servers.
var loopback = []string{"localhost", "127.0.0.1", "::1"}

// setProxy makes the way out that of every tool: by the variables that most read in either case, and by those of runtimes that
// need to be told. Nobody's own proxy counts, for nothing else leads out.
func (s *session) setProxy(env map[string]string) {
	s.mu.Lock()
	r := s.relay
	s.mu.Unlock()
	if r == nil {
		return
	}
	direct := append(slices.Clone(loopback), r.direct...)
	for name, value := range map[string]string{
		"HTTP_PROXY": r.url(), "HTTPS_PROXY": r.url(), "ALL_PROXY": r.url(), "NO_PROXY": strings.Join(direct, ","),
	} {
		env[name], env[strings.ToLower(name)] = value, value
	}
	for _, name := range []string{"npm_config_proxy", "npm_config_https_proxy", "YARN_HTTP_PROXY", "YARN_HTTPS_PROXY"} {
		env[name] = r.url()
	}
	env["npm_config_noproxy"] = env["NO_PROXY"]
	env["NODE_USE_ENV_PROXY"] = "1"
	env["JAVA_TOOL_OPTIONS"] = strings.TrimSpace(env["JAVA_TOOL_OPTIONS"] + " " + javaProxy(r.addr, direct))
}

// javaProxy is how a Java runtime is told of a proxy. Its list has other separators, and addresses of IPv6 in brackets.
func javaProxy(addr string, direct []string) string {
	host, port, _ := net.SplitHostPort(addr)
	var hosts []string
	for _, h := range direct {
		if strings.Contains(h, ":") {
			h = "[" + h + "]"
		}
		hosts = append(hosts, h)
	}
	return fmt.Sprintf("-Dhttp.proxyHost=%[1]s -Dhttp.proxyPort=%[2]s -Dhttps.proxyHost=%[1]s -Dhttps.proxyPort=%[2]s -Dhttp.nonProxyHosts=%[3]s",
		host, port, strings.Join(hosts, "|"))
}

func flat(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}
