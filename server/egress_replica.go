package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/config"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	feedConnections = 128
	feedTimeout     = 10 * time.Second // for a request's head; streams have limits of their own
)

// startEgressFeed takes the streams of the replicas that are the way out of pods.
func (p *platform) startEgressFeed(ctx context.Context, keyring *store.Keyring, registry *prometheus.Registry) error {
	c := &p.cfg
	_, err := policy.New(policy.Spec{AllowCIDRs: c.EgressAllow, DenyCIDRs: c.EgressDeny, Indexes: c.EgressIndexes})
	if err != nil {
		return fmt.Errorf("EGRESS_ALLOW_CIDRS, EGRESS_DENY_CIDRS, EGRESS_PACKAGE_INDEXES: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.EgressFeedAddr)
	if err != nil {
		return fmt.Errorf("EGRESS_FEED_ADDR: %w", err)
	}
	p.egress = session.NewEgress(session.EgressOptions{
		Store: p.store, Keyring: keyring, Logger: p.log, Address: c.EgressProxy, AllowCIDRs: c.EgressAllow, DenyCIDRs: c.EgressDeny,
		Indexes: c.EgressIndexes, Observe: c.EgressMode == config.EgressObserve,
		Replicas: &session.EgressReplicas{Secret: c.EgressSecret.Reveal(), CheckSource: c.EgressSource},
	})
	streams, connected := p.egress.Replicas()
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lap_egress_replicas", Help: "Replicas of lap egress that are connected."},
			func() float64 { return float64(connected()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "lap_egress_events_omitted_total",
			Help: "Decisions that no event was made of, because too many came at once, there were too many kinds, or a replica was away for too long.",
		}, func() float64 { _, unheard := p.egress.Stats(); return float64(unheard) }))
	mux := http.NewServeMux()
	mux.Handle("GET "+feed.Path, streams)
	p.listen(api.Limit(l, feedConnections), &http.Server{Handler: mux, ReadHeaderTimeout: feedTimeout, IdleTimeout: feedTimeout, MaxHeaderBytes: 16 << 10})
	return nil
}

// proxyEgress is lap egress. After SIGTERM it takes no further connections, and gives those that there are the time to end.
func proxyEgress(ctx context.Context, args, environ []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("egress", flag.ContinueOnError)
	flags.SetOutput(stderr)
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := config.LoadEgress(environ)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	r := feed.NewReplica(feed.ReplicaOptions{
		Servers: cfg.Servers, Secret: cfg.Secret.Reveal(), Logger: log,
		Proxy: egress.Options{MaxConns: cfg.MaxConnections, MaxTunnels: cfg.MaxTunnels},
	})
	defer r.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	failed := make(chan error, 2)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.ListenAddr)
	if err != nil {
		return fmt.Errorf("EGRESS_LISTEN_ADDR: %w", err)
	}
	probes, err := serveProbes(ctx, cfg.MetricsAddr, r, &running, failed)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if probes != nil {
		defer probes.Close()
	}
	feeding, cancel := context.WithCancel(context.WithoutCancel(ctx)) // while connections end, so may sessions
	defer cancel()
	running.Go(func() { r.Run(feeding) })
	serving, served := make(chan struct{}), error(nil)
	go func() {
		defer close(serving)
		served = r.Proxy().Serve(l)
	}()
	log.Info("proxying", "addr", l.Addr().String(), "servers", cfg.Servers, "version", versionString())
	select {
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownTimeout)
		defer cancel()
		r.Proxy().Drain(end)
		log.Info("stopped")
		<-serving
		return nil
	case err := <-failed:
		return err
	case <-serving:
		return fmt.Errorf("proxy: %w", served)
	}
}

// serveProbes serves what Kubernetes and Prometheus ask for.
func serveProbes(ctx context.Context, addr string, r *feed.Replica, running *sync.WaitGroup, failed chan<- error) (*http.Server, error) {
	if addr == "off" {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), proxyMetrics{r.Proxy().Stats})
	for name, g := range map[string]struct {
		help string
		get  func(streams, attempts int) int
	}{
		"lap_egress_streams":  {"Servers that this replica is connected to.", func(n, _ int) int { return n }},
		"lap_egress_attempts": {"Attempts of sessions that are let through.", func(_, n int) int { return n }},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: g.help}, func() float64 { return float64(g.get(r.Counts())) }))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !r.IsReady() || ctx.Err() != nil {
			http.Error(w, "no server has said what to let through, or this replica ends", http.StatusServiceUnavailable)
		}
	})
	s := &http.Server{Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, MaxHeaderBytes: 16 << 10}
	running.Go(func() {
		if err := s.Serve(api.Limit(l, metricsConnections)); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	return s, nil
}
