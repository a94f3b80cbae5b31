package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/litellm-agent-platform/lap/"

// edges are the imports between our own packages that are allowed, by folder; a folder stands for all below it. Packages named
// *test, and main, may import what they like.
var edges = map[string]struct {
	may []string
	why string
}{
	"openapi":               {nil, "the specification stands alone"},
	"gen":                   {nil, "generated code stands alone"},
	"store":                 {nil, "persistence knows neither sandboxes nor the server"},
	"sandbox/agent":         {[]string{"gen/sandboxd", "sandbox", "sandbox/harness", "sandbox/terminal"}, "sandboxd speaks its protocol and runs harnesses, nothing else"},
	"sandbox/egress":        {[]string{"sandbox/egress/policy", "sandbox/signed"}, "the proxy knows sessions by name only, and no server"},
	"sandbox/egress/policy": {nil, "what is allowed is decided by hosts and addresses alone"},
	"sandbox/harness":       {[]string{"gen/sandboxd", "sandbox/marked", "sandbox/terminal"}, "a harness speaks in records of the sandboxd protocol"},
	"sandbox/kube":          {[]string{"sandbox", "sandbox/egress/policy"}, "a runtime makes sandboxes and knows nothing of what runs inside; what is public the proxy's policy says"},
	"sandbox/local":         {[]string{"sandbox", "sandbox/marked"}, "a runtime makes sandboxes and knows nothing of what runs inside"},
	"sandbox/marked":        {nil, "processes are ended by what is in their environment"},
	"sandbox/signed":        {nil, "a form of text"},
	"sandbox/terminal":      {[]string{"sandbox/marked"}, "a terminal knows neither harness nor network"},
	"sandbox":               {[]string{"sandbox/signed"}, "the contracts of a sandbox stand alone"},
	"server/api":            {[]string{"server/session", "server/skill", "server/config", "server/guide", "store", "sandbox/egress/policy", "gen", "gen/sandboxd", "openapi"}, "handlers reach sandboxes only through sessions, and check entries as the proxy reads them"},
	"server/browser":        {nil, "pages are tried from outside"},
	"server/guide":          {nil, "the guide is text"},
	"server/gateway":        {nil, "a client of the model gateway"},
	"server/session":        {[]string{"store", "sandbox", "sandbox/egress", "sandbox/egress/feed", "sandbox/egress/policy", "server/skill", "server/gateway", "gen/sandboxd"}, "sessions bring rows and sandboxes together and know no HTTP server"},
	"server/skill":          {nil, "skills as text are pure"},
	"server/bench":          {nil, "the server is measured from outside"},
	"server/chaos":          {nil, "the server is broken from outside"},
	"server/sdk":            {nil, "what other teams pick up is tried from outside"},
	"server/tty":            {nil, "terminals are tried from outside"},
	"server/cli":            {[]string{"gen/client"}, "client commands know of a server what every client knows"},
	"server/contract":       {[]string{"gen", "gen/client"}, "the contract is checked from outside"},
	"server/config":         {nil, "configuration stands alone"},
	"server/kubernetes":     {nil, "the server on Kubernetes is tested from outside"},
	"server/node":           {nil, "the server on a real node is tested from outside"},
	"server/demo":           {nil, "the demo gateway is a gateway like any other"},
}

func TestOnlyAllowedImportEdges(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Name,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Name string
			Imports          []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		folder := strings.TrimPrefix(p.ImportPath, module)
		if p.Name == "main" || strings.HasSuffix(p.Name, "test") {
			continue
		}
		owner := owning(folder)
		if owner == "" {
			t.Errorf("%s: no rule says what it may import; add one to this test", folder)
			continue
		}
		seen[owner] = true
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !allowed(owner, to) {
				t.Errorf("%s must not import %s: %s", folder, to, edges[owner].why)
			}
		}
	}
	for owner := range edges {
		if !seen[owner] {
			t.Errorf("the rule for %s matches no package", owner)
		}
	}
}

// owning returns the rule with the longest folder that contains a package.
func owning(folder string) string {
	for f := folder; f != ""; f = f[:max(0, strings.LastIndexByte(f, '/'))] {
		if _, ok := edges[f]; ok {
			return f
		}
	}
	return ""
}

func allowed(owner, to string) bool {
	if owning(to) == owner {
		return true
	}
	for _, may := range edges[owner].may {
		if to == may {
			return true
		}
	}
	return false
}
