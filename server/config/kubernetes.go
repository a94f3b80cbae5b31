package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// dnsLabel is what can be the name of a namespace, dnsName that of other objects.
var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
)

// HarnessImages returns the image of each harness that has one, by harness id.
func (c *Config) HarnessImages() map[string]string {
	images := map[string]string{}
	for harness, own := range map[string]string{
		"opencode": c.OpenCodeImage, "claude-agent-sdk": c.ClaudeSDKImage, "claude-code": c.ClaudeCodeImage, "codex": c.CodexImage,
	} {
		if own == "" {
			own = c.HarnessImage
		}
		if own != "" {
			images[harness] = own
		}
	}
	return images
}

func (c *Config) checkKubernetes(p *problems) {
	if !dnsLabel.MatchString(c.Namespace) {
		p.add("K8S_NAMESPACE", "is not a name of a namespace")
	}
	if c.PlatformImage == "" {
		p.add("K8S_PLATFORM_IMAGE", "must be set for the kubernetes runtime")
	}
	if len(c.HarnessImages()) == 0 {
		p.add("K8S_HARNESS_IMAGE", "must be set for the kubernetes runtime, or the image of at least one harness")
	}
	if c.gatewayInCluster() && c.EgressProxy == "" && c.GatewayPods == "" && len(c.EgressAllow) == 0 {
		p.add("K8S_GATEWAY_PODS", "must be set, or EGRESS_ALLOW_CIDRS: the gateway is in the cluster, where sandboxes reach nothing else")
	}
	if !slices.Contains([]string{"", "Always", "IfNotPresent", "Never"}, c.ImagePullPolicy) {
		p.add("K8S_IMAGE_PULL_POLICY", "is not one of Always, IfNotPresent, Never")
	}
	for name, value := range map[string]string{
		"K8S_RUNTIME_CLASS": c.RuntimeClass, "K8S_PRIORITY_CLASS": c.PriorityClass, "SANDBOX_STORAGE_CLASS": c.StorageClass,
	} {
		if value != "" && !dnsName.MatchString(value) {
			p.add(name, "is not a name of a Kubernetes object")
		}
	}
	if slices.ContainsFunc(c.ImagePullSecrets, func(s string) bool { return !dnsName.MatchString(s) }) {
		p.add("K8S_IMAGE_PULL_SECRETS", "has an entry that is not a name of a Kubernetes object")
	}
}

// gatewayInCluster reports whether the gateway has a name that only a cluster's DNS knows.
func (c *Config) gatewayInCluster() bool {
	u := webURL(c.LiteLLMAPIBase)
	if u == nil {
		return false
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	_, err := netip.ParseAddr(host)
	return err != nil && host != "localhost" && (!strings.Contains(host, ".") || strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".cluster.local"))
}
