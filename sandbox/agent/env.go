package agent

import (
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
	return env
}

func flat(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}
