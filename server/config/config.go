// Package config owns the server's settings: which environment variables there are, what they default to, which values are
// refused, and the secrets that are generated when nobody sets them. It must not know what uses a setting. A Config is not
// changed after EnsureSecrets and may then be shared.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Values of Runtime.
const (
	RuntimeLocal      = "local"
	RuntimeKubernetes = "kubernetes"
)

// Values of SandboxNetwork.
const (
	NetworkAuto   = "auto"
	NetworkOwn    = "own"
	NetworkShared = "shared"
)

// Values of EgressMode.
const (
	EgressEnforce = "enforce"
	EgressObserve = "observe"
)

const containerEnvPrefix = "CONTAINER_ENV_"

// Config is the whole configuration. Fields are named after their variables; the tag desc is the text of the guide's table.
type Config struct {
	ListenAddr       string        `env:"LISTEN_ADDR" envDefault:"127.0.0.1:3000" desc:"Address of the API, host and port."`
	AllowNonLoopback bool          `env:"ALLOW_NON_LOOPBACK" envDefault:"false" desc:"Lets the local runtime listen beyond loopback. Its sandboxes are processes of this machine, so whoever has the key can run commands on it."`
	BaseURL          string        `env:"BASE_URL" desc:"URL under which clients reach the API. Default: http:// and LISTEN_ADDR. Its origin is allowed in browsers."`
	CORSOrigins      []string      `env:"CORS_ALLOWED_ORIGINS" desc:"Further origins that may call the API from a browser, separated by commas."`
	MetricsAddr      string        `env:"METRICS_ADDR" envDefault:"127.0.0.1:9464" desc:"Address of the Prometheus metrics at /metrics; off for none."`
	MasterKey        Secret        `env:"MASTER_KEY" desc:"Key that clients send as bearer token, at least 16 visible characters. Required with DATABASE_URL, else generated and kept in DATA_DIR."`
	EncryptionKey    Secret        `env:"ENCRYPTION_KEY" desc:"Keys that seal secrets at rest, at least 16 characters each, separated by commas: the first seals, all open. Required with DATABASE_URL, else generated and kept in DATA_DIR."`
	DatabaseURL      Secret        `env:"DATABASE_URL" desc:"Postgres database, postgres://user:password@host/name. Default: SQLite in DATA_DIR."`
	DataDir          string        `env:"DATA_DIR" desc:"Directory of everything the server keeps. Default: lap under XDG_DATA_HOME, or under ~/.local/share."`
	HarnessDir       string        `env:"HARNESS_DIR" desc:"Directory of the harness programs that the local runtime installs. Default: harness under DATA_DIR."`
	Runtime          string        `env:"RUNTIME" desc:"Where sandboxes run: local, as processes of this machine, or kubernetes, as pods. Default: kubernetes inside of a cluster, else local."`
	StartTimeout     time.Duration `env:"START_TIMEOUT" envDefault:"10m" desc:"Time a session may take to become ready, the first installation of its harness included."`
	TurnTimeout      time.Duration `env:"TURN_TIMEOUT" envDefault:"6h" desc:"Time a turn may take once its harness has it. Then it is ended and fails with turn_timeout."`
	ShutdownTimeout  time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"30s" desc:"Time that requests get to end after SIGTERM."`
	MaxSessions      int           `env:"MAX_SESSIONS" envDefault:"100" desc:"Sessions that may have a sandbox at once, on all servers of one database. Further ones are refused with 503. 0: any number."`
	SessionRate      int           `env:"SESSION_RATE" envDefault:"600" desc:"Sessions that may be opened within a minute, on all servers of one database. Further ones are refused with 429. 0: any number."`
	SessionRetention time.Duration `env:"SESSION_RETENTION" envDefault:"168h" desc:"How long a session that was stopped, failed, died or was suspended keeps its workspace and settings. 0: until it is deleted."`
	DataRetention    time.Duration `env:"DATA_RETENTION" envDefault:"2160h" desc:"How long a session, its transcript and its events stay readable after its end, and a deleted agent with the last of its sessions. Not less than SESSION_RETENTION. 0: for ever."`
	MaxConnections   int           `env:"MAX_CONNECTIONS" envDefault:"10000" desc:"Connections that are served at once. Further ones wait. Fewer if the limit of open files is lower."`
	LogLevel         slog.Level    `env:"LOG_LEVEL" envDefault:"info" desc:"debug, info, warn or error."`
	LiteLLMAPIBase   string        `env:"LITELLM_API_BASE" desc:"URL of the model gateway, with or without /v1. Without it no session can be opened."`
	LiteLLMAPIKey    Secret        `env:"LITELLM_API_KEY" desc:"Key for the model gateway, which every sandbox gets. Not needed with LITELLM_MASTER_KEY."`
	LiteLLMMasterKey Secret        `env:"LITELLM_MASTER_KEY" desc:"Master key of the model gateway, which must then be a LiteLLM. Each session gets a key of its own, for its model only, which is deleted when its sandbox ends. No sandbox gets this one."`
	SessionBudget    float64       `env:"SESSION_BUDGET" envDefault:"0" desc:"With LITELLM_MASTER_KEY: US dollars that the key of a session may spend. 0: any amount."`
	GitToken         Secret        `env:"GIT_TOKEN" desc:"Credential for cloning, when neither agent nor session has one of its own."`
	GitTokenHosts    []string      `env:"GIT_TOKEN_HOSTS" envDefault:"github.com" desc:"Hosts that GIT_TOKEN is sent to, separated by commas."`
	RepoURLSchemes   []string      `env:"REPO_URL_SCHEMES" envDefault:"https" desc:"Schemes of repo_url; http and file may be added to https for development."`
	Kubeconfig       string        `env:"KUBECONFIG" desc:"File that says how to reach the cluster of the kubernetes runtime. Default: the cluster that the server runs in, else the user's own file. From outside, sandboxes are reached through the API server."`
	Namespace        string        `env:"K8S_NAMESPACE" envDefault:"lap-sandboxes" desc:"Namespace of sandboxes, workspaces and settings of sessions. One installation has it to itself."`
	PlatformImage    string        `env:"K8S_PLATFORM_IMAGE" desc:"Image of this server, whose sandboxd is copied into every pod. Required by the kubernetes runtime."`
	HarnessImage     string        `env:"K8S_HARNESS_IMAGE" desc:"Image with the programs of all harnesses. One for each harness may be set instead, or beside it."`
	OpenCodeImage    string        `env:"K8S_HARNESS_IMAGE_OPENCODE" desc:"Image with opencode."`
	ClaudeSDKImage   string        `env:"K8S_HARNESS_IMAGE_CLAUDE_SDK" desc:"Image with claude, for the harness claude-agent-sdk."`
	ClaudeCodeImage  string        `env:"K8S_HARNESS_IMAGE_CLAUDE_CODE" desc:"Image with claude, for the harness claude-code."`
	CodexImage       string        `env:"K8S_HARNESS_IMAGE_CODEX" desc:"Image with codex."`
	ImagePullPolicy  string        `env:"K8S_IMAGE_PULL_POLICY" desc:"Always, IfNotPresent or Never, for all images of sandboxes. Default: the cluster's."`
	ImagePullSecrets []string      `env:"K8S_IMAGE_PULL_SECRETS" desc:"Names of secrets in K8S_NAMESPACE with credentials for registries, separated by commas."`
	RuntimeClass     string        `env:"K8S_RUNTIME_CLASS" desc:"RuntimeClass of sandboxes, such as gvisor."`
	PriorityClass    string        `env:"K8S_PRIORITY_CLASS" desc:"PriorityClass of sandboxes."`
	PlatformPods     string        `env:"K8S_PLATFORM_PODS" desc:"Pods of this server, which alone may connect to sandboxes, as namespace/label=value,label=value. Default inside of a cluster: its own namespace and app.kubernetes.io/name=lap; outside, nobody connects but through the API server."`
	DNSPods          string        `env:"K8S_DNS_PODS" envDefault:"kube-system/k8s-app=kube-dns" desc:"Pods that answer DNS for sandboxes."`
	GatewayPods      string        `env:"K8S_GATEWAY_PODS" desc:"Pods of a model gateway in the cluster, which sandboxes may reach beside public addresses. Likewise."`
	VolumeSize       string        `env:"SANDBOX_VOLUME_SIZE" desc:"Size of the volume of each session's workspace in the kubernetes runtime, such as 10Gi. Without it a workspace goes with its sandbox; of it only the harness's conversation is kept, up to 32 MiB."`
	StorageClass     string        `env:"SANDBOX_STORAGE_CLASS" desc:"StorageClass of these volumes. Default: the cluster's."`
	PodTemplate      string        `env:"SANDBOX_POD_TEMPLATE" desc:"YAML of a PodTemplateSpec that sandboxes are laid over: resources, node selectors, tolerations, further containers. It cannot undo the isolation of sandboxes."`
	SandboxNetwork   string        `env:"SANDBOX_NETWORK" envDefault:"auto" desc:"own: each local sandbox has a network of its own, whose only way out is the proxy; shared: it has the machine's, and policies are advisory; auto: own where the machine lets it."`
	EgressMode       string        `env:"EGRESS_MODE" envDefault:"enforce" desc:"enforce or observe. observe lets pass what only allow_out and deny_out of an agent deny, and tells what it would have denied."`
	EgressAllow      []string      `env:"EGRESS_ALLOW_CIDRS" desc:"Addresses and ranges that every sandbox may reach, whatever else is said, separated by commas. Needed for what is not on the public Internet."`
	EgressDeny       []string      `env:"EGRESS_DENY_CIDRS" desc:"Addresses and ranges that no sandbox may reach, besides metadata, loopback, link-local and private ones, such as that of the cluster's API server."`
	EgressIndexes    []string      `env:"EGRESS_PACKAGE_INDEXES" desc:"Hosts of package indexes that are open while requirements install, besides those that requirements and PIP_INDEX_URL name. Of use to agents with allow_out."`
	EgressProxy      string        `env:"EGRESS_PROXY_ADDR" desc:"host:port at which pods reach lap egress, whose port is that of its pods. With it, sandboxes of the kubernetes runtime reach nothing else, and are held to what their agents may reach; without, the cluster's policies leave them all public addresses."`
	EgressPods       string        `env:"K8S_EGRESS_PODS" desc:"Pods of lap egress, as namespace/label=value,label=value. Required with EGRESS_PROXY_ADDR."`
	EgressFeedAddr   string        `env:"EGRESS_FEED_ADDR" envDefault:"127.0.0.1:9465" desc:"Address at which this server takes the streams of lap egress, with EGRESS_PROXY_ADDR. Only its pods need to reach it."`
	EgressSecret     Secret        `env:"EGRESS_SECRET" desc:"What lap egress presents to this server, at least 16 visible characters. Required with EGRESS_PROXY_ADDR."`
	EgressSource     bool          `env:"EGRESS_CHECK_SOURCE" envDefault:"true" desc:"lap egress lets a sandbox connect from the address of its pod only. false where the cluster's network hides that."`
	ContainerEnv     SecretMap     `env:"-" name:"CONTAINER_ENV_*" desc:"Environment of every harness: CONTAINER_ENV_FOO=1 sets FOO=1. Agents and sessions override it."`
}

// Field describes one variable.
type Field struct {
	Name        string
	Default     string // empty: see Description
	Description string
}

// Fields returns all variables in the order of Config.
func Fields() []Field { return fieldsOf(reflect.TypeFor[Config]()) }

func fieldsOf(t reflect.Type) []Field {
	fields := make([]Field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		fields = append(fields, Field{Name: variable(f), Default: f.Tag.Get("envDefault"), Description: f.Tag.Get("desc")})
	}
	return fields
}

func variable(f reflect.StructField) string {
	if name := f.Tag.Get("name"); name != "" {
		return name
	}
	return f.Tag.Get("env")
}

// Load reads the configuration from environ, as os.Environ returns it. The error names every variable that is wrong, without
// its value.
func Load(environ []string) (Config, error) {
	vars := env.ToMap(environ)
	p := problems{of: reflect.TypeFor[Config]()}
	var c Config
	p.parse(env.ParseWithOptions(&c, env.Options{Environment: vars}))
	c.ContainerEnv = p.containerEnv(vars)
	c.paths(vars, &p)
	if c.Runtime == "" {
		c.Runtime = RuntimeLocal
		if vars["KUBERNETES_SERVICE_HOST"] != "" {
			c.Runtime = RuntimeKubernetes
		}
	}
	c.check(&p)
	return c, errors.Join(p.errs...)
}

type problems struct {
	of   reflect.Type // whose fields have the variables' names
	errs []error
}

func (p *problems) add(name, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s %s", name, fmt.Sprintf(format, args...)))
}

// parse reports what the parser refused under the variables' names; its own texts name fields and show values.
func (p *problems) parse(err error) {
	var all env.AggregateError
	if !errors.As(err, &all) {
		if err != nil {
			p.errs = append(p.errs, err)
		}
		return
	}
	for _, err := range all.Errors {
		var bad env.ParseError
		if !errors.As(err, &bad) {
			p.errs = append(p.errs, err)
			continue
		}
		f, _ := p.of.FieldByName(bad.Name)
		p.add(variable(f), "is not %s", kindOf(f.Type))
	}
}

func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[bool]():
		return "true or false"
	case reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 10m"
	case reflect.TypeFor[float64]():
		return "a number"
	case reflect.TypeFor[int]():
		return "a whole number"
	case reflect.TypeFor[slog.Level]():
		return "one of debug, info, warn, error"
	default:
		return "valid"
	}
}

func (p *problems) containerEnv(vars map[string]string) SecretMap {
	m := SecretMap{}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		key, ok := strings.CutPrefix(name, containerEnvPrefix)
		if !ok {
			continue
		}
		if !validName(key) {
			p.add(name, "does not end in the name of an environment variable")
			continue
		}
		m[key] = Secret(vars[name])
	}
	return m
}

func validName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// paths fills the directories' defaults and makes them absolute.
func (c *Config) paths(vars map[string]string, p *problems) {
	if c.DataDir == "" {
		switch data, home := vars["XDG_DATA_HOME"], vars["HOME"]; {
		case filepath.IsAbs(data):
			c.DataDir = filepath.Join(data, "lap")
		case home != "":
			c.DataDir = filepath.Join(home, ".local", "share", "lap")
		default:
			p.add("DATA_DIR", "must be set, for there is neither XDG_DATA_HOME nor HOME")
			return
		}
	}
	c.DataDir = absolute("DATA_DIR", c.DataDir, p)
	if c.HarnessDir == "" {
		c.HarnessDir = filepath.Join(c.DataDir, "harness")
	}
	c.HarnessDir = absolute("HARNESS_DIR", c.HarnessDir, p)
}

func absolute(name, path string, p *problems) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		p.add(name, "is relative and there is no working directory")
	}
	return abs
}
