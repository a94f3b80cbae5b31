// Command release keeps clients from being broken unawares. It compares the document with the one that was released last, by oasdiff;
// writes what differs into openapi/CHANGELOG.md; and refuses a change that breaks clients unless the version says so and the changelog
// tells them what to do. It is run from the root of the tree.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(context.Background(), ".", os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	current   = "openapi/openapi.yaml"
	released  = "openapi/released/openapi.yaml"
	changelog = "openapi/CHANGELOG.md"
)

// run does what the argument says to the tree at root.
func run(ctx context.Context, root string, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: release check | changelog | release")
	}
	r, err := compare(ctx, root)
	if err != nil {
		return err
	}
	path := filepath.Join(root, changelog)
	log, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	switch args[0] {
	case "check":
		return r.check(string(log))
	case "changelog":
		return os.WriteFile(path, []byte(r.write(string(log))), 0o644)
	case "release":
		return r.release(root, string(log))
	}
	return fmt.Errorf("there is no command %s", args[0])
}

// release makes the document the released one.
func (r *revision) release(root, log string) error {
	if err := r.check(log); err != nil {
		return err
	}
	if len(r.changes) > 0 && !r.version.above(r.released) {
		return errors.New("the document differs from the released one: raise info.version, then run \"go tool task spec:changelog\"")
	}
	text, err := os.ReadFile(filepath.Join(root, current))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, released), text, 0o644)
}

// compare asks oasdiff for what differs.
func compare(ctx context.Context, root string) (*revision, error) {
	r := &revision{}
	for name, v := range map[string]*version{current: &r.version, released: &r.released} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		if *v, err = versionOf(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	tool := exec.CommandContext(ctx, "go", "tool", "-modfile=.ci/tools/go.mod", "oasdiff", "changelog", released, current, "--format", "json")
	tool.Dir, tool.Stderr = root, os.Stderr
	out, err := tool.Output()
	if err != nil {
		return nil, fmt.Errorf("oasdiff: %w", err)
	}
	r.changes, err = readChanges(out)
	return r, err
}

// change is one difference, in all operations that have it.
type change struct {
	text       string
	breaks     bool
	operations []string
}

// readChanges reads what oasdiff says. It leaves out its own remark on the version, on which this command is stricter.
func readChanges(out []byte) ([]change, error) {
	var list []struct {
		ID, Text, OperationID, Operation, Path string
		Level                                  int // 1: nothing breaks, 2: something may, 3: it does
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("oasdiff's answer: %w", err)
	}
	var changes []change
	for _, c := range list {
		if c.ID == "api-version-not-bumped" {
			continue
		}
		// A client whose language has types does not build any more without a field that it reads.
		breaks := c.Level > 1 || c.ID == "response-optional-property-removed"
		i := slices.IndexFunc(changes, func(old change) bool { return old.text == c.Text && old.breaks == breaks })
		if i < 0 {
			i = len(changes)
			changes = append(changes, change{text: c.Text, breaks: breaks})
		}
		name := c.OperationID
		if name == "" {
			name = strings.TrimSpace(c.Operation + " " + c.Path)
		}
		if name != "" && !slices.Contains(changes[i].operations, name) {
			changes[i].operations = append(changes[i].operations, name)
		}
	}
	for _, c := range changes {
		slices.Sort(c.operations)
	}
	slices.SortStableFunc(changes, func(a, b change) int {
		if a.breaks != b.breaks {
			return map[bool]int{true: -1, false: 1}[a.breaks]
		}
		return strings.Compare(a.text, b.text)
	})
	return changes, nil
}
