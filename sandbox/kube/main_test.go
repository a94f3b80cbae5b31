package kube_test

import (
	"flag"
	"log/slog"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/kube/kubetest"
)

// plane is the control plane of all tests of this package.
var plane *kubetest.Plane

func TestMain(m *testing.M) {
	kube.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(kubetest.Main{M: m, Use: func(p *kubetest.Plane) { plane = p }},
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		// controller-runtime waits for ever for the first sight of a cluster that is never reached.
		goleak.IgnoreTopFunction("sigs.k8s.io/controller-runtime/pkg/cache.newMultiNamespaceInformer.func1"),
		goleak.IgnoreTopFunction("sigs.k8s.io/controller-runtime/pkg/cache.newMultiNamespaceInformerHandlerRegistration.func1"))
}

var update = flag.Bool("update", false, "write the files of testdata instead of comparing with them")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not as it was (-update rewrites it):\n%s", path, diff(string(want), got))
	}
}

// diff shows the lines that only one of two texts has.
func diff(want, got string) string {
	var out strings.Builder
	for _, side := range []struct{ sign, text, other string }{{"-", want, got}, {"+", got, want}} {
		has := map[string]bool{}
		for line := range strings.Lines(side.other) {
			has[line] = true
		}
		for line := range strings.Lines(side.text) {
			if !has[line] {
				out.WriteString(side.sign + line)
			}
		}
	}
	return out.String()
}
