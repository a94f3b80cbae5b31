package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/server/config"
	"github.com/litellm-agent-platform/lap/store"
)

// rekeyTimeout bounds one question to the database: counting goes through whole tables.
const rekeyTimeout = 10 * time.Minute

// rekey seals every stored secret with the first key of ENCRYPTION_KEY and says which of the others are still needed.
func rekey(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("rekey", flag.ContinueOnError)
	flags.SetOutput(stderr)
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := config.Load(environ)
	if err != nil {
		return err
	}
	st, err := openForRekey(ctx, &cfg, slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	done, err := st.Rekey(ctx, func(done int64) { fmt.Fprintf(stdout, "%d values sealed again\n", done) })
	uses, countErr := st.KeyUses(ctx)
	if err := errors.Join(err, countErr, st.Close()); err != nil {
		return fmt.Errorf("rekey: %w", err)
	}
	return reportKeys(stdout, done, uses)
}

// openForRekey opens the database that there is.
func openForRekey(ctx context.Context, cfg *config.Config, log *slog.Logger) (*store.Store, error) {
	path := filepath.Join(cfg.DataDir, "lap.db")
	if cfg.DatabaseURL == "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no database at %s; see DATABASE_URL and DATA_DIR", path)
		}
	}
	if cfg.MasterKey == "" {
		cfg.MasterKey = "not used here" // so that none is generated
	}
	if _, err := cfg.EnsureSecrets(); err != nil {
		return nil, err
	}
	keyring, err := store.NewKeyring(cfg.EncryptionKey.Reveal())
	if err != nil {
		return nil, fmt.Errorf("ENCRYPTION_KEY: %w", err)
	}
	st, err := store.Open(ctx, store.Options{
		DatabaseURL: cfg.DatabaseURL.Reveal(), Path: path, Keyring: keyring, Timeout: rekeyTimeout, Logger: log,
	})
	if errors.Is(err, store.ErrInUse) {
		return nil, fmt.Errorf("open database: %w; stop the server first", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return st, nil
}

// reportKeys prints what still needs each key, by id, in the order of the list.
func reportKeys(w io.Writer, done int64, uses []store.KeyUse) error {
	fmt.Fprintf(w, "%d agent versions and checkpoints were sealed again with the first key, %s.\n", done, uses[0].ID)
	var removable []string
	for i, u := range uses[1:] {
		name := fmt.Sprintf("%s (key %d of ENCRYPTION_KEY)", u.ID, i+2)
		switch {
		case !u.Listed:
			name = u.ID + " (not in ENCRYPTION_KEY)"
		case !u.Needed():
			removable = append(removable, name)
			continue
		}
		fmt.Fprintf(w, "%s is still needed for %s.\n", name, needs(u))
	}
	if len(removable) > 0 {
		_, err := fmt.Fprintf(w, "May be removed from ENCRYPTION_KEY, once no server uses it as its first key: %s.\n", strings.Join(removable, ", "))
		return err
	}
	_, err := fmt.Fprintln(w, "No key may be removed from ENCRYPTION_KEY.")
	return err
}

func needs(u store.KeyUse) string {
	var list []string
	for _, need := range []struct {
		n    int64
		what string
	}{
		{u.Sealed, "%d agent versions (written by a server that seals with it: run lap rekey again when there is none)"},
		{u.Checkpoints, "%d checkpoints (likewise)"},
		{u.Sandboxes, "%d sandboxes (until their sessions end or are restarted)"},
		{u.Digests, "%d requests with an Idempotency-Key (until 24 h after they were made)"},
	} {
		if need.n > 0 {
			list = append(list, fmt.Sprintf(need.what, need.n))
		}
	}
	return strings.Join(list, ", ")
}
