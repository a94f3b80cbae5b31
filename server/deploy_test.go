package main_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/litellm-agent-platform/lap/server/config"
)

func TestTheChartSetsVariablesThatTheServerReads(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("deploy/templates/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var set []string
	for _, m := range regexp.MustCompile(`"([A-Z][A-Z0-9_]+)" `).FindAllSubmatch(text, -1) {
		set = append(set, string(m[1]))
	}
	known := map[string]bool{}
	for _, f := range config.Fields() {
		known[f.Name] = true
	}
	for _, name := range set {
		if !known[name] {
			t.Errorf("the chart sets %s, which the server does not read", name)
		}
	}
	proxy, err := os.ReadFile("deploy/templates/egress.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{}
	for _, f := range config.EgressFields() {
		read[f.Name] = true
	}
	for _, m := range regexp.MustCompile(`name: ([A-Z][A-Z0-9_]+)`).FindAllSubmatch(proxy, -1) {
		if !read[string(m[1])] {
			t.Errorf("the chart sets %s, which lap egress does not read", m[1])
		}
	}
	for _, name := range []string{"EGRESS_PROXY_ADDR", "EGRESS_FEED_ADDR", "EGRESS_CHECK_SOURCE", "K8S_EGRESS_PODS", "RUNTIME", "LISTEN_ADDR", "DATA_DIR", "K8S_PLATFORM_IMAGE", "K8S_PLATFORM_PODS", "SANDBOX_POD_TEMPLATE"} {
		if !slices.Contains(set, name) {
			t.Errorf("the chart does not set %s", name)
		}
	}
}
