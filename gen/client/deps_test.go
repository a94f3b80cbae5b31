package client_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// modules are what a program gets with the client, and why. Nothing of the server, its database or Kubernetes is among them.
var modules = []string{
	"github.com/apapsch/go-jsonmerge/v2", // of the runtime, for unions
	"github.com/coder/websocket",         // terminals; it has no dependencies
	"github.com/google/uuid",             // of the runtime
	"github.com/litellm-agent-platform/lap",
	"github.com/oapi-codegen/nullable", // fields that may be null
	"github.com/oapi-codegen/runtime",  // the generated code
	"go.yaml.in/yaml/v3",               // the generated code, for /openapi.yaml
}

func TestAProgramGetsLittleWithTheClient(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{.Module.Path}} {{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		module, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		got = append(got, module)
		if own := "github.com/litellm-agent-platform/lap"; module == own && path != own+"/gen/client" {
			t.Errorf("it imports %s", path)
		}
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, modules) {
		t.Errorf("it needs\n%s\nand may need\n%s", strings.Join(got, "\n"), strings.Join(modules, "\n"))
	}
}
