package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const keptDir = "workspace/home/kept"

// stateful is a box that can start its own program, with files in it.
func stateful(t *testing.T, database string, files map[string]string) *box {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t)
	b.c, b.fake.database = b.c.WithSelf(exe, "sandboxd"), database
	for name, text := range files {
		b.put(name, text)
	}
	b.start()
	return b
}

func (b *box) put(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.c.Root, keptDir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		b.t.Fatal(err)
	}
}

// checkpoint fetches one, unless there is nothing new.
func (b *box) checkpoint(have string) *sandboxd.GetCheckpointResponse {
	b.t.Helper()
	r, err := b.client.GetCheckpointWithResponse(context.Background(), &sandboxd.GetCheckpointParams{Have: &have})
	if err != nil {
		b.t.Fatal(err)
	}
	if r.StatusCode() == http.StatusOK {
		if sum := sumOf(r.Body); sum != r.Headers200.CheckpointSha256 {
			b.t.Errorf("the sum is %s, and said to be %s", sum, r.Headers200.CheckpointSha256)
		}
	}
	return r
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (b *box) bring(packed []byte) int {
	b.t.Helper()
	r, err := b.client.PutCheckpointWithBodyWithResponse(context.Background(), "application/zstd", bytes.NewReader(packed))
	if err != nil {
		b.t.Fatal(err)
	}
	return r.StatusCode()
}

// restoring is a binding that names a checkpoint.
func restoring(sum string) func(*sandboxd.SessionConfig) {
	return func(c *sandboxd.SessionConfig) {
		native, said, missed := "native-7", "all that was said", "what was said since"
		c.Attempt, c.HarnessSessionID, c.Transcript, c.Missed, c.Checkpoint = 2, &native, &said, &missed, &sum
	}
}

func began(t *testing.T, all []sandboxd.Record) string {
	t.Helper()
	return field(t, all[len(all)-1], "conversation")
}

// refusals are the words in which a sandboxd says that it has no use for a checkpoint.
func refusals(t *testing.T, all []sandboxd.Record) (why []string) {
	t.Helper()
	for _, r := range all {
		if r.Type == "harness.event" && field(t, r, "kind") == "checkpoint" {
			why = append(why, field(t, r, "status")+": "+field(t, r, "message"))
		}
	}
	return why
}

func TestAHarnessGoesOnInAnotherWorkspace(t *testing.T) {
	t.Parallel()
	b := stateful(t, "", map[string]string{"a/one.jsonl": "{}\n{}\n{\"half", "a/b/two.txt": "half", "none.jsonl": "half"})
	if r := b.checkpoint(""); r.StatusCode() != http.StatusConflict {
		t.Errorf("before it is ready: %d", r.StatusCode())
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(b.c.Root, keptDir, "link")); err != nil {
		t.Fatal(err)
	}
	b.ready()
	first := b.checkpoint("")
	if first.StatusCode() != http.StatusOK {
		t.Fatalf("%d %s", first.StatusCode(), first.Body)
	}
	if h := first.Headers200; h.CheckpointNumber != 1 || h.CheckpointConversation != "native-1" || h.CheckpointTurn != nil || h.CheckpointMark == "" {
		t.Errorf("headers = %+v", h)
	}
	if r := b.checkpoint(first.Headers200.CheckpointMark); r.StatusCode() != http.StatusNoContent {
		t.Errorf("once more: %d", r.StatusCode())
	}
	b.do("t1", "say hello")
	b.put("a/one.jsonl", "{}\n{}\n{}\n")
	second := b.checkpoint(first.Headers200.CheckpointMark)
	if h := second.Headers200; h == nil || h.CheckpointNumber != 2 || h.CheckpointTurn == nil || *h.CheckpointTurn != "t1" || h.CheckpointMark == first.Headers200.CheckpointMark {
		t.Fatalf("%d, headers = %+v", second.StatusCode(), h)
	}
	if left, err := filepath.Glob(filepath.Join(b.c.StateDir, "checkpoint*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}

	other := stateful(t, "", nil)
	for _, packed := range [][]byte{first.Body, second.Body} { // the last one counts
		if status := other.bring(packed); status != http.StatusNoContent {
			t.Fatalf("bring: %d", status)
		}
	}
	all := other.ready(restoring(second.Headers200.CheckpointSha256))
	c := other.fake.config(1)
	if got := began(t, all); got != "restored" || c.Resume != "native-7" || c.Missed != "what was said since" || len(refusals(t, all)) > 0 {
		t.Errorf("it began %s with %+v, %v", got, c, refusals(t, all))
	}
	var have []string
	err := fs.WalkDir(os.DirFS(filepath.Join(other.c.Root, keptDir)), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			have = append(have, p+"="+other.read(keptDir+"/"+p))
		}
		return err
	})
	if want := []string{"a/b/two.txt=half", "a/one.jsonl={}\n{}\n{}\n", "none.jsonl="}; err != nil || !slices.Equal(have, want) {
		t.Errorf("it has %q, %v", have, err)
	}
	if status := other.bring(first.Body); status != http.StatusConflict {
		t.Errorf("bring to a bound sandbox: %d", status)
	}
}

func TestACheckpointThatCannotBeUsedIsSaidSoAndTheConversationToldAgain(t *testing.T) {
	t.Parallel()
	good := archive(t, "one.jsonl", "{}\n")
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1
	for name, c := range map[string]struct {
		packed []byte
		sum    string
		why    string
	}{
		"not brought":   {nil, sumOf(good), "not brought"},
		"another one":   {good, sumOf(flipped), "not the one"},
		"damaged":       {flipped, sumOf(flipped), "cannot be used"},
		"cut":           {good[:len(good)-5], sumOf(good[:len(good)-5]), "EOF"},
		"leads out":     {archive(t, "../one.jsonl", "{}\n"), "", "has no place"},
		"of no meaning": {[]byte("hello"), "", "cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := stateful(t, "", nil)
			if c.packed != nil && b.bring(c.packed) != http.StatusNoContent {
				t.Fatal("it was not taken")
			}
			if c.sum == "" {
				c.sum = sumOf(c.packed)
			}
			all := b.ready(restoring(c.sum))
			why, started := refusals(t, all), b.fake.config(1)
			if len(why) != 1 || !strings.HasPrefix(why[0], "refused: ") || !strings.Contains(why[0], c.why) {
				t.Errorf("it says %q", why)
			}
			if began(t, all) != "new" || started.Resume != "" || started.Missed != "" || started.Replay != "all that was said" {
				t.Errorf("it began %s with %+v", began(t, all), started)
			}
			if left, err := filepath.Glob(filepath.Join(b.c.Root, keptDir, "*")); err != nil || len(left) > 0 {
				t.Errorf("left over: %v %v", left, err)
			}
		})
	}
}

func TestAHarnessThatDoesNotStartFromACheckpointStartsWithoutIt(t *testing.T) {
	t.Parallel()
	b := stateful(t, "", nil)
	b.fake.startErr = func(n int) error {
		if n == 1 {
			return errors.New("what is this?")
		}
		return nil
	}
	packed := archive(t, "one.jsonl", "{}\n")
	b.bring(packed)
	all := b.ready(restoring(sumOf(packed)))
	if why := refusals(t, all); len(why) != 1 || !strings.Contains(why[0], "what is this?") {
		t.Errorf("it says %q", why)
	}
	if c := b.fake.config(2); c.Resume != "" || c.Replay != "all that was said" || b.fake.config(1).Resume != "native-7" {
		t.Errorf("it started with %+v", c)
	}
	if _, err := os.Lstat(filepath.Join(b.c.Root, keptDir, "one.jsonl")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what it was to start from is there: %v", err)
	}
}

func TestAStateThatIsTooLargeIsSaidSoOnce(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 33<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	b := stateful(t, "", map[string]string{"noise": string(noise)})
	b.ready()
	for range 2 {
		if r := b.checkpoint(""); r.StatusCode() != http.StatusRequestEntityTooLarge {
			t.Errorf("%d %.100s", r.StatusCode(), r.Body)
		}
	}
	b.do("t", "say hello")
	if why := refusals(t, b.until("turn.completed")); len(why) != 1 || !strings.HasPrefix(why[0], "too_large: ") {
		t.Errorf("it says %q", why)
	}
	if status := stateful(t, "", nil).bring(noise); status != http.StatusRequestEntityTooLarge {
		t.Errorf("bring: %d", status)
	}
	if err := os.Remove(filepath.Join(b.c.Root, keptDir, "noise")); err != nil {
		t.Fatal(err)
	}
	if r := b.checkpoint(""); r.StatusCode() != http.StatusNoContent {
		t.Errorf("without any state: %d", r.StatusCode())
	}
}

func TestADatabaseInUseIsKeptAsItIsAtOneMoment(t *testing.T) {
	t.Parallel()
	b := stateful(t, "x.db", map[string]string{"else": "not kept"})
	open := func(b *box) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(b.c.Root, keptDir, "x.db")+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(60000)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	ctx := t.Context()
	db := open(b)
	if _, err := db.ExecContext(ctx, "CREATE TABLE pairs (a, b); INSERT INTO pairs VALUES (0, 0)"); err != nil {
		t.Fatal(err)
	}
	stop, written := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				written <- nil
				return
			default:
			}
			if _, err := db.ExecContext(ctx, "UPDATE pairs SET a = ?, b = ?", i, i); err != nil {
				written <- err
				return
			}
		}
	}()
	b.ready()
	r := b.checkpoint("")
	close(stop)
	if err := <-written; err != nil || r.StatusCode() != http.StatusOK {
		t.Fatalf("%v %d %s", err, r.StatusCode(), r.Body)
	}
	other := stateful(t, "x.db", nil)
	other.bring(r.Body)
	if all := other.ready(restoring(r.Headers200.CheckpointSha256)); began(t, all) != "restored" {
		t.Fatalf("it began %s: %v", began(t, all), refusals(t, all))
	}
	var x, y int
	if err := open(other).QueryRowContext(ctx, "SELECT a, b FROM pairs").Scan(&x, &y); err != nil || x != y {
		t.Errorf("%d, %d, %v", x, y, err)
	}
	if _, err := os.Lstat(filepath.Join(other.c.Root, keptDir, "else")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is no database is there: %v", err)
	}
}

func TestAHostileCheckpointLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) []tar.Header { return []tar.Header{{Typeflag: tar.TypeReg, Name: name}} }
	many := make([]tar.Header, 10_001)
	for i := range many {
		many[i] = tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d", i)}
	}
	for name, c := range map[string]struct {
		headers  []tar.Header
		database string
	}{
		"parent":          {headers: file("../x")},
		"parent within":   {headers: file("a/../../x")},
		"not clean":       {headers: file("a/./x")},
		"absolute":        {headers: file("/x")},
		"backslash":       {headers: file(`a\x`)},
		"deep":            {headers: file(strings.Repeat("a/", 40) + "x")},
		"symlink":         {headers: []tar.Header{{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/"}, {Typeflag: tar.TypeReg, Name: "a/x"}}},
		"hard link":       {headers: []tar.Header{{Typeflag: tar.TypeLink, Name: "a", Linkname: "/etc/passwd"}}},
		"device":          {headers: []tar.Header{{Typeflag: tar.TypeChar, Name: "a"}}},
		"directory":       {headers: []tar.Header{{Typeflag: tar.TypeDir, Name: "a/"}}},
		"twice":           {headers: append(file("a"), file("a")...)},
		"file as folder":  {headers: append(file("a"), file("a/b")...)},
		"many":            {headers: many},
		"bomb":            {headers: []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Size: 300 << 20}}},
		"other database":  {headers: file("y.db"), database: "x.db"},
		"empty":           {},
		"nothing for one": {database: "x.db"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out", "kept")
			if err := os.WriteFile(in, pack(t, c.headers...), 0o600); err != nil {
				t.Fatal(err)
			}
			said, err := run(t, exe, "sandboxd", "checkpoint", "unpack", out, c.database, in)
			if err == nil || !strings.Contains(said, `"error":"`) || strings.Contains(said, `"error":""`) {
				t.Errorf("%v, it says %s", err, said)
			}
			var left []string
			err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
				left = append(left, strings.TrimPrefix(p, dir))
				return err
			})
			if want := []string{"", "/in", "/out", "/out/kept"}; err != nil || !slices.Equal(left, want) {
				t.Errorf("there is %q, %v", left, err)
			}
		})
	}
}

// archive is a checkpoint of one file.
func archive(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o600})
	_, more := io.WriteString(w, text)
	if err := errors.Join(err, more, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pack is a checkpoint with these entries, full of zeros.
func pack(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// run runs a program to its end and returns what it says.
func run(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	return string(out), err
}
