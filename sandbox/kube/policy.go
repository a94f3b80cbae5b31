package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

const (
	denyPolicy  = "lap-deny-all"
	allowPolicy = "lap-sandboxes"
	shutInFor   = time.Minute // so long policies are taken to be as they were left
	dnsPort     = 53
)

// Network says what sandboxes may be connected with. Pods are written namespace/label=value,label=value. With a proxy, that is all
// that sandboxes may connect to, and they resolve no names; without, they may connect to what else is here and to public addresses.
type Network struct {
	Platform    string   // pods that may connect to sandboxd; empty: none
	Proxy       string   // pods of the egress proxy; empty: there is none
	ProxyAddr   string   // host:port of the proxy, of which the port counts: it is that of the pods, too
	DNS         string   // pods that answer DNS; empty: none
	Gateway     string   // URL of the model gateway; counts if its host is an address
	GatewayPods string   // pods of a gateway in the cluster; empty: none
	Allow, Deny []string // further ranges of addresses that may, and public ones that may not be reached, or addresses
}

// Policies returns the network policies of the sandboxes' namespace: one that denies everything to every pod in it, and one that
// opens for sandboxes what they need. They hold where the cluster's network enforces policies. The error is about the options.
func Policies(o Options) ([]*networkingv1.NetworkPolicy, error) {
	if err := o.parse(); err != nil {
		return nil, err
	}
	return o.policies, nil
}

// shutIn sees to it that the policies are there, before there is a pod that needs them.
func (r *Runtime) shutIn(ctx context.Context) error {
	r.policy.Lock()
	defer r.policy.Unlock()
	if time.Since(r.policed) < shutInFor {
		return nil
	}
	for _, want := range r.o.policies {
		if err := r.ensure(ctx, want.DeepCopy()); err != nil {
			return fmt.Errorf("network policy %s: %w", want.Name, refused(err))
		}
	}
	r.policed = time.Now()
	return nil
}

func (r *Runtime) ensure(ctx context.Context, want *networkingv1.NetworkPolicy) error {
	is := &networkingv1.NetworkPolicy{}
	err := r.live.Get(ctx, client.ObjectKeyFromObject(want), is)
	if apierrors.IsNotFound(err) {
		if err = r.live.Create(ctx, want); apierrors.IsAlreadyExists(err) {
			return nil // by another replica
		}
		return err
	}
	if err != nil || sameSpec(is, want) {
		return err
	}
	want.ResourceVersion = is.ResourceVersion
	if err = r.live.Update(ctx, want); apierrors.IsConflict(err) {
		return nil // it is looked at again in a minute
	}
	return err
}

func sameSpec(a, b *networkingv1.NetworkPolicy) bool {
	return equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func (o *Options) network() ([]*networkingv1.NetworkPolicy, []error) {
	n := &o.Network
	var errs []error
	peers := func(name, pods string, more ...networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer {
		if pods == "" {
			return more
		}
		peer, err := podPeer(pods)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", name, err))
		}
		return append(more, peer)
	}
	var in []networkingv1.NetworkPolicyIngressRule
	if from := peers("K8S_PLATFORM_PODS", n.Platform); len(from) > 0 {
		in = append(in, networkingv1.NetworkPolicyIngressRule{From: from, Ports: ports(Port, corev1.ProtocolTCP)})
	}
	out, wrong := o.out(peers)
	errs = append(errs, wrong...)
	sandboxes := map[string]string{nameLabel: podName}
	return []*networkingv1.NetworkPolicy{
		o.networkPolicy(denyPolicy, nil, nil, nil), o.networkPolicy(allowPolicy, sandboxes, in, out),
	}, errs
}

// proxied tells whether a proxy is the only way out of sandboxes.
func (n *Network) proxied() bool { return n.Proxy != "" || n.ProxyAddr != "" }

type peersOf func(name, pods string, more ...networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer

func (o *Options) out(peers peersOf) (out []networkingv1.NetworkPolicyEgressRule, errs []error) {
	n := &o.Network
	if n.proxied() {
		_, text, err := net.SplitHostPort(n.ProxyAddr)
		port, bad := strconv.ParseUint(text, 10, 16)
		if err != nil || bad != nil || port == 0 {
			errs = append(errs, errors.New("EGRESS_PROXY_ADDR is not host:port"))
		}
		to := peers("K8S_EGRESS_PODS", n.Proxy)
		if len(to) == 0 { // a rule without peers would open every address
			return nil, append(errs, errors.New("K8S_EGRESS_PODS must be set together with EGRESS_PROXY_ADDR"))
		}
		return []networkingv1.NetworkPolicyEgressRule{{To: to, Ports: ports(int(port), corev1.ProtocolTCP)}}, errs
	}
	if to := peers("K8S_DNS_PODS", n.DNS); len(to) > 0 {
		out = append(out, networkingv1.NetworkPolicyEgressRule{To: to, Ports: ports(dnsPort, corev1.ProtocolUDP, corev1.ProtocolTCP)})
	}
	if to := peers("K8S_GATEWAY_PODS", n.GatewayPods); len(to) > 0 {
		out = append(out, networkingv1.NetworkPolicyEgressRule{To: to})
	}
	out = append(out, gatewayRule(n.Gateway)...)
	allow, err := prefixes("EGRESS_ALLOW_CIDRS", n.Allow)
	errs = append(errs, err)
	deny, err := prefixes("EGRESS_DENY_CIDRS", n.Deny)
	errs = append(errs, err)
	return append(out, networkingv1.NetworkPolicyEgressRule{To: append(publicPeers(deny), blocks(allow)...)}), errs
}

func (o *Options) networkPolicy(name string, pods map[string]string, in []networkingv1.NetworkPolicyIngressRule, out []networkingv1.NetworkPolicyEgressRule) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: o.Namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": "lap"},
		},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: pods}, Ingress: in, Egress: out,
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		},
	}
}

// podPeer reads namespace/label=value,label=value. Without labels it would be every pod of the namespace, so that is refused.
func podPeer(text string) (networkingv1.NetworkPolicyPeer, error) {
	ns, selector, ok := strings.Cut(text, "/")
	labels, err := apilabels.ConvertSelectorToLabelsMap(selector)
	if !ok || !isName(ns) || err != nil || len(labels) == 0 {
		return networkingv1.NetworkPolicyPeer{}, errors.New("is not of the form namespace/label=value,label=value")
	}
	return networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: labels},
	}, nil
}

// gatewayRule opens the address of a gateway that is written as an address. Names cannot be in a policy.
func gatewayRule(gateway string) []networkingv1.NetworkPolicyEgressRule {
	u, err := url.Parse(gateway)
	if err != nil {
		return nil
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil
	}
	port := map[string]int{"http": 80, "https": 443}[u.Scheme]
	if n, err := strconv.Atoi(u.Port()); err == nil {
		port = n
	}
	return []networkingv1.NetworkPolicyEgressRule{{
		To:    blocks([]netip.Prefix{netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())}),
		Ports: ports(port, corev1.ProtocolTCP),
	}}
}

func prefixes(name string, list []string) (out []netip.Prefix, err error) {
	for _, text := range list {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if addr, bad := netip.ParseAddr(text); bad == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		if err != nil {
			return nil, errors.New(name + " has an entry that is neither an address nor a range such as 10.1.0.0/16")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func publicPeers(deny []netip.Prefix) []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for whole, except := range policy.Public() {
		block := &networkingv1.IPBlock{CIDR: whole.String()}
		for _, e := range slices.Concat(except, deny) {
			if e.Addr().Is4() == whole.Addr().Is4() && whole.Contains(e.Addr()) && e.Bits() > whole.Bits() {
				block.Except = append(block.Except, e.String())
			}
		}
		slices.Sort(block.Except)
		block.Except = slices.Compact(block.Except)
		peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: block})
	}
	slices.SortFunc(peers, func(a, b networkingv1.NetworkPolicyPeer) int { return strings.Compare(a.IPBlock.CIDR, b.IPBlock.CIDR) })
	return peers
}

func blocks(list []netip.Prefix) []networkingv1.NetworkPolicyPeer {
	peers := make([]networkingv1.NetworkPolicyPeer, len(list))
	for i, p := range list {
		peers[i] = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: p.String()}}
	}
	return peers
}

func ports(port int, protocols ...corev1.Protocol) []networkingv1.NetworkPolicyPort {
	out := make([]networkingv1.NetworkPolicyPort, len(protocols))
	for i, p := range protocols {
		out[i] = networkingv1.NetworkPolicyPort{Protocol: &p, Port: ptr(intstr.FromInt32(int32(port)))}
	}
	return out
}
