package kube_test

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
)

var network = kube.Network{
	Platform: "lap/app.kubernetes.io/name=lap", DNS: "kube-system/k8s-app=kube-dns", Gateway: "https://10.9.8.7/v1",
	GatewayPods: "litellm/app=litellm,tier=api", Allow: []string{"10.20.0.0/16"}, Deny: []string{"34.118.224.0/20", "203.0.114.7", "2600:1900::/28"},
}

// proxied is network with a proxy, beside which nothing else counts.
func proxied() kube.Network {
	n := network
	n.Proxy, n.ProxyAddr = "lap/app.kubernetes.io/name=lap-egress", "lap-egress.lap.svc:3128"
	return n
}

func TestWithoutPodsOrPortOfItTheProxyIsRefusedAndNothingElseOpened(t *testing.T) {
	t.Parallel()
	for _, n := range []kube.Network{{Proxy: "lap/a=b"}, {ProxyAddr: "proxy:3128"}, {Proxy: "lap/a=b", ProxyAddr: "proxy:0"}, {Proxy: "lap", ProxyAddr: "proxy:3128"}} {
		if list, err := kube.Policies(podOptions(func(o *kube.Options) { o.Network = n })); err == nil {
			t.Errorf("%+v makes %v", n, list)
		}
	}
}

func TestNetworkPoliciesAreAsTheyWere(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]kube.Network{"policies-none.yaml": {}, "policies-all.yaml": network, "policies-proxy.yaml": proxied()} {
		list, err := kube.Policies(podOptions(func(o *kube.Options) { o.Network = n }))
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, p := range list {
			one, err := yaml.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString("---\n" + string(one))
		}
		golden(t, name, text.String())
	}
}

func TestNoSandboxIsMadeBeforeThePoliciesStandAndTheyAreRestored(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Network = network
	clients := plane.Clients(t).NetworkingV1().NetworkPolicies(o.Namespace)
	open := func() *kube.Runtime {
		t.Helper()
		rt, err := kube.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(rt.Close)
		return rt
	}
	// The same user without any right cannot make policies, so that there is no pod.
	o.Config = rest.CopyConfig(plane.Config)
	o.Config.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
	if err := open().Create(t.Context(), newSpec()); err == nil || !strings.Contains(err.Error(), "network policy") || errors.Is(err, sandbox.ErrRefused) {
		t.Errorf("without rights: %v", err)
	}
	o.Config = plane.Config
	create(t, open())
	create(t, open())
	list, err := clients.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("there are %d policies, %v", len(list.Items), err)
	}
	for i := range list.Items {
		if g := list.Items[i].Generation; g != 1 {
			t.Errorf("%s was changed though it was right: generation %d", list.Items[i].Name, g)
		}
	}
	want, err := kube.Policies(o)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody weakens one and removes the other; the next platform puts both right.
	broken := list.Items[1]
	broken.Spec.Egress = nil
	if _, err := clients.Update(t.Context(), &broken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := clients.Delete(t.Context(), list.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	create(t, open())
	for _, w := range want {
		is, err := clients.Get(t.Context(), w.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		was, now := asYAML(t, w.Spec), asYAML(t, is.Spec)
		if was != now {
			t.Errorf("%s is\n%s", w.Name, diff(was, now))
		}
	}
}

func asYAML(t *testing.T, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestIllFormedNetworksAreRefusedAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := kube.Policies(podOptions(func(o *kube.Options) {
		o.Network = kube.Network{Platform: "canary", DNS: "ns/", GatewayPods: "Ns/a=b", Allow: []string{"canary"}, Deny: []string{"1.2.3.4/x"}}
		o.VolumeSize, o.Template = "canary", "canary"
	}))
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Fatalf("got %v", err)
	}
	for _, name := range []string{
		"K8S_PLATFORM_PODS", "K8S_DNS_PODS", "K8S_GATEWAY_PODS", "EGRESS_ALLOW_CIDRS", "EGRESS_DENY_CIDRS", "SANDBOX_VOLUME_SIZE", "SANDBOX_POD_TEMPLATE",
	} {
		if !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s is not in %v", name, err)
		}
	}
}
