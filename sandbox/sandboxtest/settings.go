package sandboxtest

import (
	"errors"
	"maps"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

func settings(b *bench) {
	s, ctx := b.Settings(), b.t.Context()
	one, two := NewID(), NewID()
	env := map[string]string{"A": "1", "TEXT": "two\nlines, \"quotes\", <tags> & ünïcödé", "EMPTY": ""}
	before := time.Now().Add(-2 * time.Second)
	for id, env := range map[string]map[string]string{one: {"OLD": "x"}, two: {}} {
		if err := s.Put(ctx, id, env); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := s.Put(ctx, one, env); err != nil {
		b.t.Fatal(err)
	}
	b.Reopen(b.t)
	s = b.Settings()
	if got, err := s.Get(ctx, one); err != nil || !maps.Equal(got, env) {
		b.t.Errorf("got %q, %v", got, err)
	}
	if got, err := s.Get(ctx, two); err != nil || len(got) != 0 {
		b.t.Errorf("got %q, %v", got, err)
	}
	all, err := s.List(ctx)
	if err != nil || len(all) != 2 || all[one].Before(before) || all[two].After(time.Now().Add(2*time.Second)) {
		b.t.Errorf("list: %v, %v", all, err)
	}
	for range 2 {
		if err := s.Delete(ctx, one); err != nil {
			b.t.Fatal(err)
		}
	}
	if got, err := s.Get(ctx, one); !errors.Is(err, sandbox.ErrNotFound) {
		b.t.Errorf("after Delete: %q, %v", got, err)
	}
	if all, err := s.List(ctx); err != nil || len(all) != 1 {
		b.t.Errorf("list after Delete: %v, %v", all, err)
	}
}

func settingsBad(b *bench) {
	s, ctx := b.Settings(), b.t.Context()
	for _, id := range []string{"", ".", "..", "../x", "a/b", "x\x00", NewID() + "/../y"} {
		if err := s.Put(ctx, id, map[string]string{"A": "1"}); err == nil {
			b.t.Errorf("Put %q: accepted", id)
		}
		if _, err := s.Get(ctx, id); !errors.Is(err, sandbox.ErrNotFound) {
			b.t.Errorf("Get %q: %v", id, err)
		}
		if err := s.Delete(ctx, id); err != nil {
			b.t.Errorf("Delete %q: %v", id, err)
		}
	}
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		b.t.Errorf("list: %v, %v", all, err)
	}
}
