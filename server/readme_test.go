package main_test

import (
	"os"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/config"
)

func TestTheReadmeListsEveryVariableAsItIs(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "| `") && strings.ToUpper(line[3:6]) == line[3:6] {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	fields := config.Fields()
	if len(rows) != len(fields) {
		t.Errorf("the table has %d variables, the server %d", len(rows), len(fields))
	}
	for _, f := range config.EgressFields() {
		def := ""
		if f.Default != "" {
			def = " (`" + f.Default + "`)"
		}
		if want := "- `" + f.Name + "`" + def + ": " + f.Description + "\n"; !strings.Contains(string(readme), want) {
			t.Errorf("the list for lap egress lacks %s", want)
		}
	}
	for i, f := range fields {
		def := ""
		if f.Default != "" {
			def = "`" + f.Default + "`"
		}
		want := "| `" + f.Name + "` | " + def + " | " + f.Description + " |"
		if i < len(rows) && rows[i] != want {
			t.Errorf("row %d is\n%s\nwant\n%s", i+1, rows[i], want)
		}
	}
}
