package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree returns a copy of the parts of this tree that the command reads. The released document is the current one, as version 0.1.0.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, from := range map[string]string{current: current, released: current, "go.mod": "go.mod", ".ci/tools/go.mod": ".ci/tools/go.mod", ".ci/tools/go.sum": ".ci/tools/go.sum"} {
		b, err := os.ReadFile(filepath.Join("../..", from))
		if err != nil {
			t.Fatal(err)
		}
		put(t, root, name, string(b))
	}
	for _, name := range []string{current, released} {
		put(t, root, name, infoVersion.ReplaceAllString(read(t, root, name), "  version: 0.1.0"))
	}
	put(t, root, changelog, "# Changelog\n\n## 0.1.0\n\nThe first release.\n")
	return root
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, root, command string) {
	t.Helper()
	if err := run(t.Context(), root, []string{command}); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
}

func refused(t *testing.T, root, command, why string) {
	t.Helper()
	if err := run(t.Context(), root, []string{command}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: %v, want %q", command, err, why)
	}
}

// replace changes a file, in which the old text must be.
func replace(t *testing.T, root, name, old, with string) {
	t.Helper()
	text := read(t, root, name)
	if !strings.Contains(text, old) {
		t.Fatalf("%q is not in %s", old, name)
	}
	put(t, root, name, strings.ReplaceAll(text, old, with))
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestABreakNeedsAVersionAndWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, with, found string }{
		"an operation is gone":                   {"    get:\n      operationId: getHealth\n", "    put:\n      operationId: getHealth\n", "removed"},
		"a field of an answer is gone":           {"        has_more: {", "        has_still_more: {", "has_more"},
		"a field that need not be there is gone": {"        media_type: { type: string, description: Format of an image. }\n", "", "media_type"},
		"another field is required":              {"      required: [name, content]\n", "      required: [name, content, description]\n", "description"},
		"a text may be shorter only":             {"          maxLength: 64\n", "          maxLength: 60\n", "60"},
		"a value is not taken any more":          {"schema: { type: string, enum: [asc, desc], default: desc }", "schema: { type: string, enum: [desc], default: desc }", "asc"},
		"a status of another kind":               {"        '201':\n          description: The skill as stored.", "        '200':\n          description: The skill as stored.", "201"},
		"another type":                           {"turn_count: { type: integer, format: int64,", "turn_count: { type: string,", "turn_count"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := tree(t)
			replace(t, root, current, c.old, c.with)
			r, err := compare(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			fails := func(log, why string) {
				t.Helper()
				if err := r.check(log); err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("version %v: %v, want %q", r.version, err, why)
				}
			}
			log := read(t, root, changelog)
			fails(log, "breaks clients")
			fails(log, "raise info.version")
			log = r.write(log)
			if !strings.Contains(log, "## Unreleased\n") || !strings.Contains(log, "**Breaks clients**") || !strings.Contains(log, c.found) {
				t.Errorf("the changelog is\n%s", log)
			}
			fails(log, "raise info.version")
			r.version = version{0, 1, 1} // not enough
			fails(r.write(log), "raise info.version")
			r.version = version{0, 2, 0}
			fails(log, "spec:changelog")
			log = r.write(log)
			fails(log, "what clients have to do")
			log = strings.Replace(log, "## 0.2.0\n", "## 0.2.0\n\nAsk otherwise.\n", 1)
			if err := r.check(log); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log, "\n## 0.1.0\n") {
				t.Errorf("the changelog is\n%s", log)
			}
		})
	}
}

// From 1.0 on another minor version does not break clients.
func TestVersionsThatMayBreak(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to version
		may      bool
	}{
		{version{0, 1, 0}, version{0, 1, 9}, false}, {version{0, 1, 0}, version{0, 2, 0}, true}, {version{0, 9, 0}, version{1, 0, 0}, true},
		{version{1, 0, 0}, version{1, 9, 0}, false}, {version{1, 9, 0}, version{2, 0, 0}, true}, {version{2, 0, 0}, version{1, 5, 0}, false},
	} {
		if got := c.to.mayBreak(c.from); got != c.may {
			t.Errorf("%v after %v: %v", c.to, c.from, got)
		}
	}
}

func TestWhatBreaksNothingNeedsOnlyTheList(t *testing.T) {
	t.Parallel()
	root := tree(t)
	replace(t, root, current, "        has_more: {", "        more: { type: integer, description: How many more. }\n        has_more: {")
	refused(t, root, "check", "spec:changelog")
	must(t, root, "changelog")
	must(t, root, "check")
	if log := read(t, root, changelog); !strings.Contains(log, "## Unreleased\n") || !strings.Contains(log, "`more`") || strings.Contains(log, "Breaks") && strings.Contains(log, "**Breaks") {
		t.Errorf("the changelog is\n%s", log)
	}
	refused(t, root, "release", "raise info.version")
	replace(t, root, current, "  version: 0.1.0\n", "  version: 0.1.1\n")
	must(t, root, "changelog")
	must(t, root, "release")

	// Words alone.
	replace(t, root, current, "Stored configurations of coding agents.", "Configurations of coding agents.")
	must(t, root, "release")
	if read(t, root, released) != read(t, root, current) {
		t.Error("the document is not the released one")
	}

	// Backwards.
	replace(t, root, current, "  version: 0.1.1\n", "  version: 0.0.9\n")
	refused(t, root, "check", "below the released")
}

func TestTheCommandSaysHowItIsUsed(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), ".", nil); err == nil || !strings.Contains(err.Error(), "usage") {
		t.Errorf("%v", err)
	}
	refused(t, tree(t), "publish", "no command")
}
