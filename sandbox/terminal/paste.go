package terminal

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	pasteCalm   = 200 * time.Millisecond // without output, after which a program has taken what was pasted
	pasteWithin = 3 * time.Second
)

// Paste types text and sends it: bracketed if the program asked for that, then, after a pause, a carriage return. Control
// characters in the text are left out: they would be keys.
func (t *Terminal) Paste(ctx context.Context, text string) error {
	text = strings.Map(func(r rune) rune {
		if r != '\r' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, strings.NewReplacer("\r\n", "\r", "\n", "\r").Replace(text))
	t.view.mu.Lock()
	if t.view.screen.modes[2004] {
		text = "\x1b[200~" + text + "\x1b[201~"
	}
	t.view.mu.Unlock()
	taken := make(chan struct{})
	if err := t.send(ctx, input{b: []byte(text), sent: taken}); err != nil {
		return fmt.Errorf("paste: %w", err)
	}
	select {
	case <-taken:
	case <-t.gone:
		return fmt.Errorf("paste: %w", ErrEnded)
	case <-ctx.Done():
		return fmt.Errorf("paste: %w", ctx.Err())
	}
	if err := t.calm(ctx); err != nil {
		return fmt.Errorf("paste: %w", err)
	}
	if err := t.send(ctx, input{b: []byte{'\r'}}); err != nil {
		return fmt.Errorf("paste: %w", err)
	}
	return nil
}

// calm returns when the program has written nothing for a while, or goes on for too long.
func (t *Terminal) calm(ctx context.Context) error {
	limit := time.NewTimer(pasteWithin)
	defer limit.Stop()
	for {
		change, _ := t.view.watch()
		quiet := time.NewTimer(pasteCalm)
		select {
		case <-quiet.C:
			return nil
		case <-limit.C:
		case <-t.gone:
			quiet.Stop()
			return ErrEnded
		case <-ctx.Done():
			quiet.Stop()
			return ctx.Err()
		case <-change:
			quiet.Stop()
			continue
		}
		quiet.Stop()
		return nil
	}
}
