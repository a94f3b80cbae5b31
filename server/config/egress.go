package config

import (
	"errors"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// EgressProxy is the configuration of lap egress. It has no key of the server and no list of hosts: those its servers tell it.
type EgressProxy struct {
	ListenAddr      string        `env:"EGRESS_LISTEN_ADDR" envDefault:"127.0.0.1:3128" desc:"Address of the proxy, which sandboxes connect to."`
	Servers         []string      `env:"EGRESS_SERVERS" desc:"host:port of EGRESS_FEED_ADDR of the servers, separated by commas. A name may have several addresses, each of a server. Required."`
	Secret          Secret        `env:"EGRESS_SECRET" desc:"As the servers have it. Required."`
	MetricsAddr     string        `env:"METRICS_ADDR" envDefault:"127.0.0.1:9466" desc:"Address of /metrics, /healthz and /readyz; off for none."`
	MaxConnections  int           `env:"MAX_CONNECTIONS" envDefault:"16384" desc:"Connections that are served at once. Further ones wait."`
	MaxTunnels      int           `env:"EGRESS_MAX_TUNNELS" envDefault:"1024" desc:"Connections that one sandbox may have at once. Further ones are refused."`
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"30s" desc:"Time that connections get to end after SIGTERM."`
	LogLevel        slog.Level    `env:"LOG_LEVEL" envDefault:"info" desc:"debug, info, warn or error."`
}

// EgressFields returns all variables of lap egress in the order of EgressProxy.
func EgressFields() []Field { return fieldsOf(reflect.TypeFor[EgressProxy]()) }

// LoadEgress reads the configuration of lap egress, as Load does that of the server.
func LoadEgress(environ []string) (EgressProxy, error) {
	p := problems{of: reflect.TypeFor[EgressProxy]()}
	var c EgressProxy
	p.parse(env.ParseWithOptions(&c, env.Options{Environment: env.ToMap(environ)}))
	if _, _, err := net.SplitHostPort(c.ListenAddr); err != nil {
		p.add("EGRESS_LISTEN_ADDR", "is not host:port")
	}
	if _, _, err := net.SplitHostPort(c.MetricsAddr); err != nil && c.MetricsAddr != "off" {
		p.add("METRICS_ADDR", "is neither host:port nor off")
	}
	if len(c.Servers) == 0 {
		p.add("EGRESS_SERVERS", "must be set")
	}
	for i, server := range c.Servers {
		c.Servers[i] = strings.TrimSpace(server)
		if host, port, err := net.SplitHostPort(c.Servers[i]); err != nil || host == "" || !isPort(port) {
			p.add("EGRESS_SERVERS", "has an entry that is not host:port")
			break
		}
	}
	checkMasterKey("EGRESS_SECRET", c.Secret, &p)
	if c.MaxConnections <= 0 {
		p.add("MAX_CONNECTIONS", "must be more than 0")
	}
	if c.MaxTunnels <= 0 {
		p.add("EGRESS_MAX_TUNNELS", "must be more than 0")
	}
	if c.ShutdownTimeout <= 0 {
		p.add("SHUTDOWN_TIMEOUT", "must be more than 0")
	}
	return c, errors.Join(p.errs...)
}
