package kube_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

// faults are the checks that fail.
func faults(ctx context.Context, rt *kube.Runtime) map[string]string {
	found := map[string]string{}
	for _, c := range rt.Check(ctx).Checks {
		if c.Fault != "" {
			found[c.Name] = c.Fault
		}
	}
	return found
}

func TestTheHealthOfTheClusterNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	rt, _, ns := unattended(t, nil)
	create(t, rt)
	sandboxtest.Eventually(t, "all is well", func() error { return plainly(rt.Check(t.Context())) })
	if r := rt.Check(t.Context()); !strings.HasPrefix(r.Version, "v") || r.Namespace != ns {
		t.Errorf("got %+v", r)
	}

	nobody, err := kube.New(podOptions(func(o *kube.Options) { o.Config, o.Namespace = plane.User(t, "nobody-"+sandboxtest.NewID()), ns }))
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	got := faults(t.Context(), nobody)
	if !strings.Contains(got["permissions"], "create pods, delete pods") || !strings.Contains(got["permissions"], "list events") ||
		got["watch"] == "" || got["network_policies"] != "the platform may not ask" || got["api_server"] != "" {
		t.Errorf("without rights: %v", got)
	}

	away, err := kube.New(podOptions(func(o *kube.Options) { o.Config = &rest.Config{Host: "http://127.0.0.1:1"} }))
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for name, fault := range faults(ctx, away) {
		if strings.Contains(fault, "127.0.0.1") {
			t.Errorf("%s names an address: %s", name, fault)
		}
	}
	if got := faults(ctx, away); len(got) != 4 || got["api_server"] != "the API server does not answer" {
		t.Errorf("away: %v", got)
	}
}
