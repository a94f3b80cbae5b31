package nodetest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NamesAddr is where pods ask for names of services. Nothing there knows other names.
const NamesAddr = "10.0.0.10"

const clusterDomain = "cluster.local"

// serveNames answers pods about services, for as long as the process lives. What is not a question comes back, for those who look
// whether there is a way.
func (n *Node) serveNames() error {
	conn, err := net.ListenPacket("udp", NamesAddr+":53")
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 512)
		for {
			size, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			reply, err := n.reply(b[:size])
			if err != nil {
				reply = b[:size]
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	return nil
}

func (n *Node) reply(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	addrs, known := n.lookup(strings.ToLower(q.Name.String()))
	head.Response, head.Authoritative = true, true
	if !known {
		head.RCode = dnsmessage.RCodeNameError
	}
	m := dnsmessage.Message{Header: head, Questions: []dnsmessage.Question{q}}
	for _, a := range addrs {
		if q.Type == dnsmessage.TypeA && a.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	return m.Pack()
}

// lookup finds a service's address, or those of its pods if it has none of its own.
func (n *Node) lookup(name string) (addrs []netip.Addr, known bool) {
	path, ok := strings.CutSuffix(name, ".svc."+clusterDomain+".")
	service, namespace, ok2 := strings.Cut(path, ".")
	if !ok || !ok2 || strings.Contains(namespace, ".") {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	svc, err := n.api.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{})
	if err != nil {
		return nil, false
	}
	texts := []string{svc.Spec.ClusterIP}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		slices, err := n.api.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
		if err != nil {
			return nil, false
		}
		texts = nil
		for i := range slices.Items {
			for _, e := range slices.Items[i].Endpoints {
				texts = append(texts, e.Addresses...)
			}
		}
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs, true
}
