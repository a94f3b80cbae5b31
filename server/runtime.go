package main

import (
	"context"
	"log/slog"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/kube"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/config"
	"github.com/litellm-agent-platform/lap/server/session"
)

// sandboxRuntime is what the server needs of a place for sandboxes.
type sandboxRuntime interface {
	sandbox.Runtime
	Settings() sandbox.Settings
	Harnesses() []string
	StopAll(ctx context.Context) error
	Close()
}

var (
	_ sandboxRuntime = (*local.Runtime)(nil)
	_ sandboxRuntime = (*kube.Runtime)(nil)
)

// openRuntime opens the one that is configured. It does not wait for a cluster.
func openRuntime(cfg config.Config, ownNetwork bool, log *slog.Logger) (sandboxRuntime, error) {
	if cfg.Runtime == config.RuntimeLocal {
		return local.New(local.Options{
			DataDir: cfg.DataDir, HarnessDir: cfg.HarnessDir, OwnNetwork: ownNetwork, Route: session.Endpoint(cfg.LiteLLMAPIBase), Logger: log,
		})
	}
	cluster, err := kube.Connect(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	kube.LogTo(log)
	platform := cfg.PlatformPods
	if platform == "" && cluster.Inside {
		platform = cluster.Namespace + "/app.kubernetes.io/name=lap"
	}
	return kube.New(kube.Options{
		Config: cluster.Config, PortForward: !cluster.Inside, Namespace: cfg.Namespace, Image: cfg.PlatformImage, Images: cfg.HarnessImages(),
		PullPolicy: cfg.ImagePullPolicy, PullSecrets: cfg.ImagePullSecrets, Template: cfg.PodTemplate, RuntimeClass: cfg.RuntimeClass,
		PriorityClass: cfg.PriorityClass, VolumeSize: cfg.VolumeSize, StorageClass: cfg.StorageClass, Logger: log,
		Network: kube.Network{
			Platform: platform, DNS: cfg.DNSPods, Gateway: cfg.LiteLLMAPIBase, GatewayPods: cfg.GatewayPods, Allow: cfg.EgressAllow, Deny: cfg.EgressDeny,
			Proxy: cfg.EgressPods, ProxyAddr: cfg.EgressProxy,
		},
	})
}
