package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/config"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

const egressSocket = "egress.sock" // in the data directory; its path is what sandboxes of this and later servers are told

// startEgress opens the way out of the local runtime's sandboxes. A path, unlike an address, also leads out of a sandbox that has
// a network of its own.
func (p *platform) startEgress(keyring *store.Keyring, ownNetwork bool) error {
	c := &p.cfg
	_, err := policy.New(policy.Spec{AllowCIDRs: c.EgressAllow, DenyCIDRs: c.EgressDeny, Indexes: c.EgressIndexes})
	if err != nil {
		return fmt.Errorf("EGRESS_ALLOW_CIDRS, EGRESS_DENY_CIDRS, EGRESS_PACKAGE_INDEXES: %w", err)
	}
	l, err := listenPrivate(c.DataDir, egressSocket)
	if err != nil {
		return fmt.Errorf("open the way out of sandboxes: %w", err)
	}
	p.egress = session.NewEgress(session.EgressOptions{
		Store: p.store, Keyring: keyring, Logger: p.log, Address: "unix:" + filepath.Join(c.DataDir, egressSocket),
		AllowCIDRs: c.EgressAllow, DenyCIDRs: c.EgressDeny, Indexes: c.EgressIndexes, Observe: c.EgressMode == config.EgressObserve,
		OwnNetwork: ownNetwork,
	})
	p.servers.Go(func() {
		if err := p.egress.Serve(l); !errors.Is(err, egress.ErrStopped) {
			p.failed <- fmt.Errorf("way out of sandboxes: %w", err)
		}
	})
	return nil
}

// ownNetwork tells whether sandboxes get a network of their own.
func ownNetwork(ctx context.Context, wanted string, log *slog.Logger) (bool, error) {
	if wanted == config.NetworkShared {
		return false, nil
	}
	err := local.ProbeNetwork(ctx, nil)
	if err != nil && wanted == config.NetworkOwn {
		return false, fmt.Errorf("SANDBOX_NETWORK: %w", err)
	}
	if err != nil {
		log.Warn("sandboxes cannot have a network of their own on this machine", "err", err)
	}
	return err == nil, nil
}

// announceEgress says what policies do not hold back.
func (p *platform) announceEgress(own bool) {
	if p.cfg.EgressMode == config.EgressObserve {
		p.log.Warn("EGRESS_MODE is observe: what allow_out and deny_out deny is told and let pass")
	}
	if !own {
		p.log.Warn("allow_out and deny_out are advisory: a tool that leaves out the proxy is not held to them")
	}
}

// listenPrivate listens on a socket in a directory that this process alone uses, whatever the length of its path.
func listenPrivate(dir, name string) (net.Listener, error) {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	at := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + name
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the path leads elsewhere by then
	if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// egressMetrics shows what the way out counts, proxyMetrics that part of it which a proxy counts.
type (
	egressMetrics struct{ e *session.Egress }
	proxyMetrics  struct{ stats func() egress.Stats }
)

var (
	egressConnections = prometheus.NewDesc("lap_egress_connections_total",
		"Connections that sandboxes wanted: allowed, denied by a policy, refused without a valid credential or beyond a limit, invalid, and failed, which were allowed and could not be made.",
		[]string{"verdict"}, nil)
	egressObserved = prometheus.NewDesc("lap_egress_observed_total", "Connections that were allowed only because policies are observed.", nil, nil)
	egressOpen     = prometheus.NewDesc("lap_egress_open_connections", "Connections of sandboxes to hosts.", nil, nil)
	egressBytes    = prometheus.NewDesc("lap_egress_bytes_total", "Bytes of connections that have ended.", []string{"direction"}, nil)
	egressUnheard  = prometheus.NewDesc("lap_egress_events_omitted_total", "Decisions that no event was made of, because too many came at once or there were too many kinds.", nil, nil)
)

// Describe implements prometheus.Collector.
func (egressMetrics) Describe(out chan<- *prometheus.Desc) {
	proxyMetrics{}.Describe(out)
	out <- egressUnheard
}

// Collect implements prometheus.Collector.
func (m egressMetrics) Collect(out chan<- prometheus.Metric) {
	s, unheard := m.e.Stats()
	proxyMetrics{func() egress.Stats { return s }}.Collect(out)
	out <- prometheus.MustNewConstMetric(egressUnheard, prometheus.CounterValue, float64(unheard))
}

// Describe implements prometheus.Collector.
func (proxyMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{egressConnections, egressObserved, egressOpen, egressBytes} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m proxyMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.stats()
	counter := func(d *prometheus.Desc, n int64, label ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), label...)
	}
	counter(egressConnections, s.Allowed, "allowed")
	counter(egressConnections, s.Denied, "denied")
	counter(egressConnections, s.Refused, "refused")
	counter(egressConnections, s.Invalid, "invalid")
	counter(egressConnections, s.Failed, "failed")
	counter(egressObserved, s.Observed)
	out <- prometheus.MustNewConstMetric(egressOpen, prometheus.GaugeValue, float64(s.Open))
	counter(egressBytes, s.Sent, "sent")
	counter(egressBytes, s.Received, "received")
}
