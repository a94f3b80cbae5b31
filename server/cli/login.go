package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	aboutLogin = `The key is asked for without echo, or read from standard input if that is not a terminal. It is tried before it is
stored, in $XDG_CONFIG_HOME/lap/config.json, which only you can read. Default URL: LAP_URL, then ` + defaultURL + `.
`
	maxKey = 4096
)

func login(*flag.FlagSet) action {
	return func(ctx context.Context, s *shell, args []string) error {
		text := append(args, s.env("LAP_URL"))[0]
		if text == "" {
			text = defaultURL
		}
		server, err := serverURL(text)
		if err != nil {
			return usageError("the URL " + err.Error())
		}
		if inClear(server) {
			s.say("Warning: the key goes to %s unencrypted.", server)
		}
		key, err := s.askKey(ctx, server)
		if err != nil {
			return err
		}
		set := settings{URL: server, Key: key}
		api, err := s.connect(set)
		if err != nil {
			return err
		}
		if err := done(api.ListAgents(ctx, &client.ListAgentsParams{Limit: new(1), Total: new(false)})); err != nil {
			return fmt.Errorf("nothing was stored: %w", err)
		}
		path, err := s.remember(set)
		if err != nil {
			return err
		}
		s.say("Logged in to %s; the key is in %s", server, path)
		return nil
	}
}

// askKey reads the key. A terminal gets its echo back whatever happens.
func (s *shell) askKey(ctx context.Context, server string) (string, error) {
	answers := make(chan string, 1)
	failed := make(chan error, 1)
	read := func(line []byte, err error) {
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
			failed <- errors.New("no key was given")
			return
		}
		answers <- strings.TrimSpace(string(line))
	}
	if isTerminal(s.in) {
		tty := newTTY(s.in)
		defer tty.restore()
		fmt.Fprintf(s.err, "Key for %s: ", server)
		go func() { defer tty.guard(); read(term.ReadPassword(int(s.in.Fd()))) }()
		defer fmt.Fprintln(s.err)
	} else {
		go func() { read(bufio.NewReader(io.LimitReader(s.in, maxKey)).ReadBytes('\n')) }()
	}
	select {
	case key := <-answers:
		return key, checkKey(key)
	case err := <-failed:
		return "", err
	case <-ctx.Done():
		return "", errInterrupted
	}
}

func checkKey(key string) error {
	if key == "" {
		return errors.New("no key was given")
	}
	if strings.IndexFunc(key, func(r rune) bool { return r < '!' || r > '~' }) >= 0 {
		return errors.New("the key has a character that no key has")
	}
	return nil
}
