package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// File is a file an agent puts into its sandboxes. Content is set by the
// creator and by FileContents, and empty otherwise.
type File struct {
	Name        string
	Path        string
	ContentType string
	Size        int64
	SHA256      string
	Content     []byte
}

// fileRow holds the bytes of all files with one digest.
type fileRow struct {
	Sha256  string
	Content []byte
}

func (fileRow) TableName() string { return "files" }

// fileRef is how a version names a file.
type fileRef struct {
	Name        string `json:"name"`
	Path        string `json:"path"`
	ContentType string `json:"content_type"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
}

func fileRefs(files []File) []fileRef {
	refs := make([]fileRef, 0, len(files))
	for _, f := range files {
		refs = append(refs, fileRef{Name: f.Name, Path: f.Path, ContentType: f.ContentType, Size: f.Size, SHA256: f.SHA256})
	}
	return refs
}

func filesOf(refs []fileRef) []File {
	files := make([]File, 0, len(refs))
	for _, r := range refs {
		files = append(files, File{Name: r.Name, Path: r.Path, ContentType: r.ContentType, Size: r.Size, SHA256: r.SHA256})
	}
	return files
}

// hashed returns a copy with Size and SHA256 computed and Content not nil,
// except where the bytes are stored already.
func hashed(files []File) []File {
	files = append([]File{}, files...)
	for i := range files {
		f := &files[i]
		if f.stored() {
			continue
		}
		if f.Content == nil {
			f.Content = []byte{}
		}
		sum := sha256.Sum256(f.Content)
		f.SHA256, f.Size = hex.EncodeToString(sum[:]), int64(len(f.Content))
	}
	return files
}

// stored: the file names bytes that are in the database already.
func (f *File) stored() bool { return f.Content == nil && f.SHA256 != "" }

// putFiles stores each content once. The order by digest keeps two writers of
// the same files from waiting for each other.
func (s *Store) putFiles(ctx context.Context, files []File) error {
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.SHA256, b.SHA256) })
	for i := range files {
		if err := s.putFile(ctx, &files[i]); err != nil {
			return fmt.Errorf("store file %s: %w", files[i].SHA256, err)
		}
	}
	return nil
}

func (s *Store) putFile(ctx context.Context, f *File) error {
	return s.exec(ctx, func(db *gorm.DB) error {
		if f.stored() {
			var n int64
			err := db.Table("files").Where("sha256 = ? AND length(content) = ?", f.SHA256, f.Size).Count(&n).Error
			if err == nil && n == 0 {
				return ErrNotFound
			}
			return err
		}
		return db.Clauses(clause.OnConflict{DoNothing: true}).Create(&fileRow{Sha256: f.SHA256, Content: f.Content}).Error
	})
}

// FileContents fills Content of each file by its SHA256.
func (s *Store) FileContents(ctx context.Context, files []File) error {
	if len(files) == 0 {
		return nil
	}
	sums := make([]string, 0, len(files))
	for _, f := range files {
		sums = append(sums, f.SHA256)
	}
	var rows []fileRow
	err := s.query(ctx, func(db *gorm.DB) error { return db.Where("sha256 IN ?", sums).Find(&rows).Error })
	if err != nil {
		return fmt.Errorf("read files: %w", err)
	}
	bySum := make(map[string][]byte, len(rows))
	for _, row := range rows {
		bySum[row.Sha256] = row.Content
	}
	for i := range files {
		content, ok := bySum[files[i].SHA256]
		if !ok {
			return fmt.Errorf("read file %s: %w", files[i].SHA256, ErrNotFound)
		}
		files[i].Content = append([]byte{}, content...)
	}
	return nil
}
