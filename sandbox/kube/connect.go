package kube

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is how a Kubernetes cluster is reached.
type Cluster struct {
	Config *rest.Config
	Inside bool // this process runs in it
	// Namespace is that of this process, empty outside.
	Namespace string
}

// namespaceFile is where Kubernetes tells a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Connect finds the cluster: the one that the file kubeconfig names in its current context; without a file the one that this
// process runs in, and outside of any the one of the user's own file. It does not talk to it.
func Connect(kubeconfig string) (Cluster, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err == nil {
			namespace, err := os.ReadFile(namespaceFile)
			if err != nil {
				return Cluster{}, fmt.Errorf("read the namespace of this pod: %w", err)
			}
			return Cluster{Config: config, Inside: true, Namespace: strings.TrimSpace(string(namespace))}, nil
		}
		if !errors.Is(err, rest.ErrNotInCluster) {
			return Cluster{}, fmt.Errorf("connect to the cluster of this pod: %w", err)
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if kubeconfig != "" {
		rules.ExplicitPath = kubeconfig
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return Cluster{}, fmt.Errorf("KUBECONFIG: %w", err)
	}
	return Cluster{Config: config}, nil
}
