package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

const defaultURL = "http://127.0.0.1:3000"

// settings are what lap login remembers, in a file that only its owner reads.
type settings struct {
	URL string `json:"url"`
	Key string `json:"key"`
}

func (s *shell) env(name string) string {
	for i := len(s.environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(s.environ[i], name+"="); ok {
			return value
		}
	}
	return ""
}

func (s *shell) settingsPath() (string, error) {
	if dir := s.env("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lap", "config.json"), nil
	}
	home := s.env("HOME")
	if home == "" {
		return "", errors.New("neither XDG_CONFIG_HOME nor HOME is set")
	}
	return filepath.Join(home, ".config", "lap", "config.json"), nil
}

// remembered returns what lap login stored, and nothing if it never ran.
func (s *shell) remembered() (settings, error) {
	var got settings
	path, err := s.settingsPath()
	if err != nil {
		return got, nil //nolint:nilerr // without a place nothing can be remembered, and the environment may have it all
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return got, nil
	}
	if err != nil {
		return got, err
	}
	if json.Unmarshal(b, &got) != nil {
		return got, fmt.Errorf("%s is not what lap login writes; log in again", path)
	}
	return got, nil
}

// settings are where the server is and its key. A remembered key goes to the server it was stored with and to no other.
func (s *shell) settings() (settings, error) {
	have, err := s.remembered()
	if err != nil {
		return have, err
	}
	if u := s.env("LAP_URL"); u != "" {
		u, err = serverURL(u)
		if err != nil {
			return have, fmt.Errorf("LAP_URL %w", err)
		}
		if u != have.URL {
			have = settings{URL: u}
		}
	}
	if key := s.env("LAP_KEY"); key != "" {
		have.Key = key
	}
	if have.URL == "" {
		have.URL = defaultURL
	}
	if have.Key == "" {
		return have, fmt.Errorf("no key for %s: run lap login, or set LAP_KEY", have.URL)
	}
	return have, nil
}

// remember stores settings: whole or not at all.
func (s *shell) remember(set settings) (path string, err error) {
	if path, err = s.settingsPath(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config-*") // of mode 0600
	if err != nil {
		return "", err
	}
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(tmp.Name()))
	}
	return path, nil
}

// serverURL checks a server's URL and returns it without a slash at its end.
func serverURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("is not an http or https URL of a server")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// inClear tells whether a key would travel over a network unencrypted.
func inClear(server string) bool {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}
