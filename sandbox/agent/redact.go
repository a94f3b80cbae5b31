package agent

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	mask          = "********"
	shortSecret   = 6        // values shorter than this are no secrets, and replacing them would spoil every sentence
	maxHarnessLog = 64 << 20 // bytes of a harness's output that are kept
	maxLogLine    = 16 << 10
)

// openEnv are the platform's own keys, whose values may be read.
var openEnv = map[string]bool{
	"REPO_URL": true, "BRANCH": true, "LITELLM_API_BASE": true, "LITELLM_DEFAULT_MODEL": true,
	"AGENT_PROMPT": true, "PORT": true, "AGENT_REQUIREMENTS": true,
}

var userInfo = regexp.MustCompile(`(://)[^/@\s'"]+@`)

// redactor takes the secrets of a session out of what is logged or reported. Safe for concurrent use.
type redactor struct {
	replace atomic.Pointer[strings.Replacer]
	w       io.Writer // for the harness's output

	mu   sync.Mutex // guards the fields below
	line []byte
	left int
}

func newRedactor(c sandboxd.SessionConfig) *redactor {
	r := &redactor{left: maxHarnessLog}
	r.learn(c)
	return r
}

// learn makes the secrets of c those that are taken out.
func (r *redactor) learn(c sandboxd.SessionConfig) {
	secrets := []string{c.Gateway.APIKey}
	for k, v := range c.Env {
		if !openEnv[k] {
			secrets = append(secrets, v)
		}
	}
	if c.Repo != nil && c.Repo.Token != nil {
		secrets = append(secrets, *c.Repo.Token, gitBasic(*c.Repo.Token))
	}
	if c.Egress != nil {
		secrets = append(secrets, c.Egress.Credential)
	}
	// A secret that holds another one has to go first.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, v := range secrets {
		if len(v) >= shortSecret {
			pairs = append(pairs, v, mask)
			if e := url.QueryEscape(v); e != v {
				pairs = append(pairs, e, mask)
			}
		}
	}
	r.replace.Store(strings.NewReplacer(pairs...))
}

// gitBasic is how git sends a token.
func gitBasic(token string) string {
	return base64.StdEncoding.EncodeToString([]byte(gitUser + ":" + token))
}

func (r *redactor) clean(s string) string {
	return userInfo.ReplaceAllString(r.replace.Load().Replace(s), "$1")
}

// writer makes w the place where whole, cleaned lines of a harness's output go.
func (r *redactor) writer(w io.Writer) io.Writer {
	r.w = w
	return r
}

// Write takes a harness's output. It never fails: a full disk must not end the harness.
func (r *redactor) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := b; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte{'\n'})
		if room := maxLogLine - len(r.line); room > 0 {
			r.line = append(r.line, part[:min(len(part), room)]...)
		}
		if whole {
			r.putLine()
		}
		rest = after
	}
	return len(b), nil
}

func (r *redactor) putLine() {
	line := r.clean(string(r.line)) + "\n"
	r.line = r.line[:0]
	if r.left <= 0 {
		return
	}
	r.left -= len(line)
	if r.left <= 0 {
		line = fmt.Sprintf("[the harness wrote more than %d bytes; the rest is left out]\n", maxHarnessLog)
	}
	_, _ = io.WriteString(r.w, line)
}
