package agent

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// check returns everything that is wrong with a configuration.
func (s *session) check(c sandboxd.SessionConfig) error {
	var errs []error
	if c.SessionID == "" || c.Attempt < 1 {
		errs = append(errs, errors.New("session_id and an attempt from 1 on are needed"))
	}
	if s.harnesses[c.HarnessID] == nil || (s.c.HarnessID != "" && s.c.HarnessID != c.HarnessID) {
		errs = append(errs, fmt.Errorf("this sandbox cannot run harness %q", c.HarnessID))
	}
	if c.Model == "" {
		errs = append(errs, errors.New("model is empty"))
	}
	for k, v := range c.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			errs = append(errs, fmt.Errorf("env: %q is not possible", k))
		}
	}
	for _, f := range c.Files {
		if _, err := sandboxPath(f.Path); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Repo != nil {
		errs = append(errs, checkRepo(*c.Repo))
	}
	if c.Egress != nil {
		errs = append(errs, checkEgress(*c.Egress))
	}
	return errors.Join(errs...)
}

func checkEgress(e sandboxd.Egress) error {
	if !isProxy(e.Proxy) {
		return errors.New("egress.proxy is neither host:port nor unix: and an absolute path")
	}
	if !isCredential(e.Credential) {
		return errors.New("egress.credential cannot be sent")
	}
	for _, m := range e.Mirrors {
		host, _, err := net.SplitHostPort(m)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return errors.New("egress.mirrors has an entry that is not on loopback")
		}
	}
	if slices.ContainsFunc(e.Direct, func(host string) bool { return host == "" || strings.ContainsAny(host, ", \x00") }) {
		return errors.New("egress.direct has an entry that is no host")
	}
	return nil
}

func isProxy(s string) bool {
	if path, unix := strings.CutPrefix(s, "unix:"); unix {
		return filepath.IsAbs(path)
	}
	_, _, err := net.SplitHostPort(s)
	return err == nil
}

// isCredential tells whether a text can stand in a field of HTTP.
func isCredential(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func checkRepo(r sandboxd.Repo) error {
	u, err := url.Parse(r.URL)
	switch {
	case err != nil || u.Scheme == "":
		return errors.New("repo.url is not a URL")
	case u.User != nil:
		return errors.New("repo.url has user information in it")
	case !allowedProtocol(r, u.Scheme):
		return fmt.Errorf("repo.url: protocol %s is not allowed", u.Scheme)
	case strings.HasPrefix(r.Branch, "-") || strings.ContainsAny(r.Branch, " \t\r\n\x00~^:?*[\\") || (r.Branch == "" && r.BranchSet):
		return errors.New("repo.branch is not the name of a branch")
	case r.Token != nil && strings.ContainsAny(*r.Token, "\r\n\x00"):
		return errors.New("repo.token has a line break in it")
	}
	return nil
}

func checkTurn(t sandboxd.Turn) error {
	if t.ID == "" || len(t.ID) > 128 || strings.ContainsFunc(t.ID, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return errors.New("id is not usable")
	}
	if t.Model == "" || len(t.Parts) == 0 {
		return errors.New("model and parts are needed")
	}
	for i, p := range t.Parts {
		switch {
		case p.Type == "text" && p.Text != nil:
		case p.Type == "image" && p.MediaType != nil && len(p.Data) > 0:
		default:
			return fmt.Errorf("part %d is neither text nor an image", i)
		}
	}
	return nil
}
