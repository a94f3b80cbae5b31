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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/config"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/gateway"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

func serve(ctx context.Context, args, environ []string, stderr io.Writer) error {
	var o platformOptions
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.demo, "demo", false, "answer with a built-in echo gateway")
	flags.BoolVar(&o.stopSandboxes, "stop-sandboxes", false, "end all sandboxes when the server ends")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := config.Load(environ)
	if err != nil {
		return err
	}
	generated, err := cfg.EnsureSecrets()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	p, err := start(ctx, cfg, o, log)
	if err != nil {
		return err
	}
	if generated {
		fmt.Fprintf(stderr, "The master key was generated and is kept in %s. It is shown only now: %s\n",
			filepath.Join(cfg.DataDir, "master.key"), cfg.MasterKey.Reveal())
	}
	select {
	case <-ctx.Done():
	case err = <-p.failed:
	}
	return errors.Join(err, p.stop())
}

type platformOptions struct{ demo, stopSandboxes bool }

// platform is a running server with all its parts. Its goroutines are the two HTTP servers and the controller.
type platform struct {
	cfg     config.Config
	o       platformOptions
	log     *slog.Logger
	url     string
	lock    *os.File
	store   *store.Store
	runtime sandboxRuntime
	egress  *session.Egress
	service *session.Service
	api     *api.API
	http    []*http.Server
	failed  chan error         // a server ended by itself
	cancel  context.CancelFunc // of the controller

	controller, servers sync.WaitGroup
}

// start brings everything up, in the order of dependence; what was started is stopped again if a later part fails.
func start(ctx context.Context, cfg config.Config, o platformOptions, log *slog.Logger) (p *platform, err error) {
	p = &platform{cfg: cfg, o: o, log: log, failed: make(chan error, 4)}
	defer func() {
		if err != nil {
			_ = p.stop()
		}
	}()
	if p.lock, err = lockDir(cfg.DataDir); err != nil {
		return nil, err
	}
	keyring, err := store.NewKeyring(cfg.EncryptionKey.Reveal())
	if err != nil {
		return nil, fmt.Errorf("ENCRYPTION_KEY: %w", err)
	}
	p.store, err = store.Open(ctx, store.Options{
		DatabaseURL: cfg.DatabaseURL.Reveal(), Path: filepath.Join(cfg.DataDir, "lap.db"), Keyring: keyring, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	own := false
	if cfg.Runtime == config.RuntimeLocal {
		if own, err = ownNetwork(ctx, cfg.SandboxNetwork, log); err != nil {
			return nil, err
		}
	}
	if p.runtime, err = openRuntime(cfg, own, log); err != nil {
		return nil, fmt.Errorf("start %s runtime: %w", cfg.Runtime, err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.ListenAddr)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	p.url = "http://" + listener.Addr().String()
	gateway, err := p.gateway(keyring)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if cfg.Runtime == config.RuntimeLocal {
		if err := p.startEgress(keyring, own); err != nil {
			_ = listener.Close()
			return nil, err
		}
		registry.MustRegister(egressMetrics{p.egress})
	} else if cfg.EgressProxy != "" {
		own = true
		if err := p.startEgressFeed(ctx, keyring, registry); err != nil {
			_ = listener.Close()
			return nil, err
		}
	}
	so := session.Options{
		Egress: p.egress, EgressEnforced: own,
		Store: p.store, Runtime: p.runtime, Settings: p.runtime.Settings(), Keyring: keyring, Harnesses: p.runtime.Harnesses(),
		Gateway: gateway, GatewayKeys: p.gatewayKeys(), Env: cfg.ContainerEnv.Reveal(), GitToken: cfg.GitToken.Reveal(), GitHosts: cfg.GitTokenHosts,
		GitProtocols: cfg.RepoURLSchemes, StartTimeout: cfg.StartTimeout, TurnTimeout: cfg.TurnTimeout, Logger: log,
		MaxSessions: cfg.MaxSessions, SessionRate: cfg.SessionRate,
		SessionRetention: cfg.SessionRetention, DataRetention: cfg.DataRetention, Isolated: cfg.Runtime == config.RuntimeKubernetes,
	}
	p.service = session.NewService(so)
	controller := session.NewController(so)
	p.service.HandTo(controller)
	handler, err := p.handler(controller, registry, gateway)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	p.listen(api.Limit(listener, p.connections()), api.NewServer(handler))
	if err := p.listenMetrics(ctx, registry); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	p.controller.Go(func() { controller.Run(run) })
	p.announce(gateway, own)
	return p, nil
}

// lockDir makes sure that one process uses a data directory.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("DATA_DIR: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "server.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("DATA_DIR: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("DATA_DIR %s is used by another server", dir)
	}
	return f, nil
}

// gateway is where models are. The demo gateway is served beside the API with a key of its own that stays the same, so that
// sandboxes still reach it when the server was restarted.
func (p *platform) gateway(k *store.Keyring) (sandboxd.Gateway, error) {
	if !p.o.demo {
		return sandboxd.Gateway{BaseURL: p.cfg.LiteLLMAPIBase, APIKey: p.cfg.LiteLLMAPIKey.Reveal()}, nil
	}
	if p.cfg.LiteLLMAPIBase != "" {
		return sandboxd.Gateway{}, errors.New("--demo and LITELLM_API_BASE exclude each other")
	}
	_, key := k.Derive("demo-gateway")
	return sandboxd.Gateway{BaseURL: p.url + demoPrefix, APIKey: fmt.Sprintf("sk-demo-%x", key[:16])}, nil
}

// gatewayKeys is nil if every session uses the same key.
func (p *platform) gatewayKeys() *gateway.Keys {
	if p.cfg.LiteLLMMasterKey == "" {
		return nil
	}
	return gateway.New(p.cfg.LiteLLMAPIBase, p.cfg.LiteLLMMasterKey.Reveal(), p.cfg.SessionBudget)
}

const demoPrefix = "/demo-gateway"

func (p *platform) handler(c *session.Controller, registry *prometheus.Registry, gateway sandboxd.Gateway) (http.Handler, error) {
	kind := "configured"
	switch {
	case p.o.demo:
		kind = "demo"
	case gateway.BaseURL == "":
		kind = "missing"
	}
	origins := p.cfg.CORSOrigins
	if o := config.Origin(p.cfg.BaseURL); o != "" {
		origins = append(origins, o)
	}
	a, err := api.New(api.Options{
		Store: p.store, Sessions: p.service, MasterKey: p.cfg.MasterKey.Reveal(), Version: versionString(), Gateway: kind,
		Leading: c.Leading, RepoURLSchemes: p.cfg.RepoURLSchemes, Origins: origins, Logger: p.log, Metrics: registry,
	})
	if err != nil {
		return nil, err
	}
	p.api = a
	if !p.o.demo {
		return a.Handler(), nil
	}
	handler, gatewayHandler := a.Handler(), http.StripPrefix(demoPrefix, demo.New(gateway.APIKey))
	// A ServeMux would redirect paths that are not clean, before anybody is asked for a key.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, demoPrefix+"/") {
			gatewayHandler.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}), nil
}

func (p *platform) listen(l net.Listener, s *http.Server) {
	p.http = append(p.http, s)
	p.servers.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.failed <- err
		}
	})
}

const (
	spareFiles         = 256 // for the database, the sandboxes and the files of the data directory
	metricsConnections = 32
	metricsTimeout     = 30 * time.Second
)

// connections is how many clients may be connected without the process running out of files.
func (p *platform) connections() int {
	n := p.cfg.MaxConnections
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur >= uint64(n)+spareFiles {
		return n
	}
	room := max(int(files.Cur)-spareFiles, 1)
	p.log.Warn("the limit of open files allows fewer connections than MAX_CONNECTIONS", "open_files", files.Cur, "connections", room)
	return room
}

func (p *platform) listenMetrics(ctx context.Context, registry *prometheus.Registry) error {
	if p.cfg.MetricsAddr == "off" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.cfg.MetricsAddr)
	if err != nil {
		return fmt.Errorf("METRICS_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	p.listen(api.Limit(l, metricsConnections), &http.Server{
		Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, MaxHeaderBytes: 16 << 10,
	})
	return nil
}

func (p *platform) announce(gateway sandboxd.Gateway, own bool) {
	p.log.Info("serving", "url", p.url, "docs", p.url+"/docs", "data_dir", p.cfg.DataDir, "runtime", p.cfg.Runtime, "version", versionString())
	if p.cfg.Runtime == config.RuntimeLocal {
		p.log.Warn("sandboxes are processes of this machine with the rights of this server", "own_network", own)
		p.announceEgress(own)
	}
	if p.cfg.Runtime == config.RuntimeKubernetes && p.egress == nil {
		p.log.Warn("EGRESS_PROXY_ADDR is not set: allow_out and deny_out are not enforced")
	}
	switch {
	case p.o.demo:
		p.log.Warn("answers come from the built-in demo gateway, not from a model")
	case gateway.BaseURL == "":
		p.log.Warn("LITELLM_API_BASE is not set: no session can be opened")
	}
}

// stop ends everything: streams first, then the controller, then requests within the shutdown timeout, then the store. Sandboxes
// go on unless they are to be stopped.
func (p *platform) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.ShutdownTimeout)
	defer cancel()
	var errs []error
	if p.service != nil {
		p.service.Close()
	}
	if p.cancel != nil {
		p.cancel()
	}
	p.controller.Wait()
	if p.egress != nil {
		p.egress.Close()
	}
	if p.runtime != nil && p.o.stopSandboxes {
		stopCtx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.runtime.StopAll(stopCtx); err != nil {
			errs = append(errs, fmt.Errorf("stop sandboxes: %w", err))
		}
	}
	for _, s := range p.http {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("end requests: %w", err), s.Close())
		}
	}
	p.servers.Wait()
	if p.api != nil {
		if err := p.api.Wait(ctx); err != nil {
			errs = append(errs, fmt.Errorf("end event streams: %w", err))
		}
	}
	if p.runtime != nil {
		p.runtime.Close()
	}
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	if p.lock != nil {
		errs = append(errs, p.lock.Close())
	}
	p.log.Info("stopped")
	return errors.Join(errs...)
}
