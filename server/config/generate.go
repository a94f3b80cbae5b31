package config

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	masterKeyFile     = "master.key"
	encryptionKeyFile = "encryption.key"
	masterKeyPrefix   = "lap-"
)

// EnsureSecrets fills MasterKey and EncryptionKey if they are not set, from files in DataDir that it creates on first use.
// Two processes that start at once end with the same keys, and a key that exists is never replaced. generated tells whether
// this call made the master key, so that it can be shown once.
func (c *Config) EnsureSecrets() (generated bool, err error) {
	if c.MasterKey != "" && c.EncryptionKey != "" {
		return false, nil
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return false, fmt.Errorf("create data directory: %w", err)
	}
	master, generated, err := ensure(c.MasterKey, filepath.Join(c.DataDir, masterKeyFile), masterKeyPrefix, checkMasterKey)
	if err != nil {
		return false, fmt.Errorf("master key: %w", err)
	}
	encryption, _, err := ensure(c.EncryptionKey, filepath.Join(c.DataDir, encryptionKeyFile), "", checkEncryptionKey)
	if err != nil {
		return false, fmt.Errorf("encryption key: %w", err)
	}
	c.MasterKey, c.EncryptionKey = master, encryption
	return generated, nil
}

// ensure returns the key that is set, or the one in a file that it creates if need be.
func ensure(set Secret, path, prefix string, check func(string, Secret, *problems)) (key Secret, created bool, err error) {
	if set != "" {
		return set, false, nil
	}
	if key, created, err = keyFile(path, prefix); err != nil {
		return "", false, err
	}
	var p problems
	check(path, key, &p)
	return key, created, errors.Join(p.errs...)
}

// keyFile reads a key, or makes one: written whole to another name first and then linked, which fails if the name is taken.
func keyFile(path, prefix string) (key Secret, created bool, err error) {
	if key, err := readKey(path); !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // 0600
	if err != nil {
		return "", false, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	_, err = fmt.Fprintf(tmp, "%s%s\n", prefix, hex.EncodeToString(random))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", false, err
	}
	err = os.Link(tmp.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, err
	}
	created = err == nil
	if err := syncDir(filepath.Dir(path)); err != nil {
		return "", false, err
	}
	key, err = readKey(path)
	return key, created, err
}

func readKey(path string) (Secret, error) {
	b, err := os.ReadFile(path)
	return Secret(strings.TrimSpace(string(b))), err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
