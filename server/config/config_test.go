package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/config"
)

func TestNothingSetGivesALocalServer(t *testing.T) {
	t.Parallel()
	c, err := config.Load([]string{"HOME=/home/x", "LISTEN_ADDR=", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		ListenAddr: "127.0.0.1:3000", BaseURL: "http://127.0.0.1:3000", MetricsAddr: "127.0.0.1:9464",
		DataDir: "/home/x/.local/share/lap", HarnessDir: "/home/x/.local/share/lap/harness", Runtime: "local",
		StartTimeout: 10 * time.Minute, TurnTimeout: 6 * time.Hour, ShutdownTimeout: 30 * time.Second, MaxConnections: 10_000, LogLevel: slog.LevelInfo,
		MaxSessions: 100, SessionRate: 600, SessionRetention: 7 * 24 * time.Hour, DataRetention: 90 * 24 * time.Hour,
		GitTokenHosts: []string{"github.com"}, RepoURLSchemes: []string{"https"}, ContainerEnv: config.SecretMap{}, Namespace: "lap-sandboxes",
		DNSPods:        "kube-system/k8s-app=kube-dns",
		SandboxNetwork: config.NetworkAuto, EgressMode: config.EgressEnforce, EgressFeedAddr: "127.0.0.1:9465", EgressSource: true,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestValuesAreBroughtIntoOneForm(t *testing.T) {
	t.Parallel()
	c, err := config.Load([]string{
		"XDG_DATA_HOME=/data", "HOME=/home/x", "LISTEN_ADDR=0.0.0.0:80", "ALLOW_NON_LOOPBACK=true", "BASE_URL=https://LAP.example.com/",
		"CORS_ALLOWED_ORIGINS=https://A.example.com/,http://b:80,https://c:8443", "METRICS_ADDR=off", "MASTER_KEY=0123456789abcdef",
		"ENCRYPTION_KEY=0123456789abcdef,fedcba9876543210", "DATABASE_URL=postgres://u:p@h/d", "HARNESS_DIR=/harness", "START_TIMEOUT=1m30s",
		"LOG_LEVEL=DEBUG", "LITELLM_API_BASE=http://gateway:4000/v1/", "LITELLM_API_KEY=sk", "GIT_TOKEN_HOSTS=GitHub.com, git.example.com",
		"EGRESS_MODE=observe", "EGRESS_ALLOW_CIDRS=10.0.0.0/8, ::1", "EGRESS_PACKAGE_INDEXES=Index.example.com",
		"REPO_URL_SCHEMES=file", "CONTAINER_ENV_FOO=bar=baz", "CONTAINER_ENV_EMPTY=",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"data dir": c.DataDir == "/data/lap", "harness dir": c.HarnessDir == "/harness", "base url": c.BaseURL == "https://LAP.example.com",
		"origins": fmt.Sprint(c.CORSOrigins) == "[https://a.example.com http://b https://c:8443]", "log level": c.LogLevel == slog.LevelDebug,
		"gateway": c.LiteLLMAPIBase == "http://gateway:4000", "hosts": fmt.Sprint(c.GitTokenHosts) == "[github.com git.example.com]",
		"schemes": fmt.Sprint(c.RepoURLSchemes) == "[https file]", "start": c.StartTimeout == 90*time.Second,
		"egress": c.EgressMode == config.EgressObserve && fmt.Sprint(c.EgressAllow, c.EgressIndexes) == "[10.0.0.0/8 ::1/128] [index.example.com]",
		"env":    reflect.DeepEqual(c.ContainerEnv.Reveal(), map[string]string{"FOO": "bar=baz", "EMPTY": ""}),
	} {
		if !ok {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if generated, err := c.EnsureSecrets(); generated || err != nil {
		t.Errorf("secrets that are set: %v, %v", generated, err)
	}
}

func TestAllProblemsAreReportedAtOnceWithoutValues(t *testing.T) {
	t.Parallel()
	environ := []string{
		"ALLOW_NON_LOOPBACK=bad-1", "START_TIMEOUT=bad-2", "LOG_LEVEL=bad-3", "SHUTDOWN_TIMEOUT=-1s", "MAX_CONNECTIONS=bad-14", "LISTEN_ADDR=bad-4", "METRICS_ADDR=bad-5",
		"DATABASE_URL=mysql://bad-6", "MASTER_KEY=bad-7", "BASE_URL=bad-8", "CORS_ALLOWED_ORIGINS=*", "LITELLM_API_KEY=bad-9", "RUNTIME=bad-10",
		"GIT_TOKEN_HOSTS=https://bad-11/", "REPO_URL_SCHEMES=ssh", "CONTAINER_ENV_=bad-12", "CONTAINER_ENV_1A=bad-13",
		"SANDBOX_NETWORK=bad-21", "EGRESS_MODE=bad-17", "EGRESS_ALLOW_CIDRS=127.0.0.1,bad-18", "EGRESS_DENY_CIDRS=fe80::1%bad-19", "EGRESS_PACKAGE_INDEXES=https://bad-20",
		"MAX_SESSIONS=bad-15", "SESSION_RATE=-1", "SESSION_RETENTION=bad-16", "DATA_RETENTION=-1h",
	}
	_, err := config.Load(environ)
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(err.Error(), "bad-") {
		t.Errorf("a value is in the error: %v", err)
	}
	lines := strings.Split(err.Error(), "\n")
	for _, name := range []string{
		"ALLOW_NON_LOOPBACK", "START_TIMEOUT", "LOG_LEVEL", "SHUTDOWN_TIMEOUT", "MAX_CONNECTIONS", "LISTEN_ADDR", "METRICS_ADDR", "DATABASE_URL", "MASTER_KEY",
		"ENCRYPTION_KEY", "BASE_URL", "CORS_ALLOWED_ORIGINS", "LITELLM_API_BASE", "RUNTIME", "GIT_TOKEN_HOSTS", "REPO_URL_SCHEMES",
		"CONTAINER_ENV_", "CONTAINER_ENV_1A", "SANDBOX_NETWORK", "EGRESS_MODE", "EGRESS_ALLOW_CIDRS", "EGRESS_DENY_CIDRS", "EGRESS_PACKAGE_INDEXES", "DATA_DIR", "MAX_SESSIONS", "SESSION_RATE", "SESSION_RETENTION", "DATA_RETENTION",
	} {
		found := false
		for _, line := range lines {
			found = found || strings.HasPrefix(line, name+" ")
		}
		if !found {
			t.Errorf("%s is not in the error: %v", name, err)
		}
	}
}

func TestValuesThatWouldBeUnsafeAreRefused(t *testing.T) {
	t.Parallel()
	for _, vars := range []string{
		"LISTEN_ADDR=:3000", "LISTEN_ADDR=0.0.0.0:3000", "LISTEN_ADDR=[::]:3000", "LISTEN_ADDR=192.168.1.1:3000", "LISTEN_ADDR=example.com:3000",
		"RUNTIME=kubernetes", "MASTER_KEY=short", "ENCRYPTION_KEY=0123456789abcdef,", "ENCRYPTION_KEY=short",
		"DATABASE_URL=postgres://h/d", "DATABASE_URL=postgres://h/d MASTER_KEY=0123456789abcdef", "LITELLM_API_BASE=http://u:p@h",
		"LITELLM_API_BASE=http://h?x", "CORS_ALLOWED_ORIGINS=null", "CORS_ALLOWED_ORIGINS=https://a/path", "START_TIMEOUT=0s", "TURN_TIMEOUT=0s", "BASE_URL=ftp://x",
		"MAX_SESSIONS=-1", "SESSION_RATE=10001", "SESSION_RETENTION=-1s", "DATA_RETENTION=1h", "SESSION_RETENTION=0", "DATA_RETENTION=167h",
		"LITELLM_MASTER_KEY=sk-x", "LITELLM_API_BASE=http://h SESSION_BUDGET=1", "LITELLM_API_BASE=http://h LITELLM_MASTER_KEY=sk-x SESSION_BUDGET=-1",
		"LITELLM_API_BASE=http://h LITELLM_MASTER_KEY=sk-x SESSION_BUDGET=NaN",
		"EGRESS_PROXY_ADDR=proxy:3128 K8S_EGRESS_PODS=ns/a=b EGRESS_SECRET=0123456789abcdef", "K8S_EGRESS_PODS=ns/a=b",
	} {
		if _, err := config.Load(append(strings.Split(vars, " "), "HOME=/x")); err == nil {
			t.Errorf("%s passes", vars)
		}
	}
	if _, err := config.Load([]string{"HOME=/x", "MASTER_KEY=with a space in the key"}); err == nil {
		t.Error("a key with spaces passes")
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:1", "[::1]:1", "127.9.9.9:1", "[::ffff:127.0.0.1]:1"} {
		if _, err := config.Load([]string{"HOME=/x", "LISTEN_ADDR=" + addr}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestTheEgressProxyIsConfiguredAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	whole := []string{
		"HOME=/x", "RUNTIME=kubernetes", "K8S_PLATFORM_IMAGE=lap:1", "K8S_HARNESS_IMAGE=all:1", "LITELLM_API_BASE=http://litellm.models.svc:4000",
		"EGRESS_PROXY_ADDR=lap-egress.lap.svc:3128", "K8S_EGRESS_PODS=lap/a=b", "EGRESS_SECRET=0123456789abcdef",
	}
	c, err := config.Load(whole)
	if err != nil || !c.EgressSource || strings.Contains(fmt.Sprintf("%v %+v", c, c), "0123456789abcdef") {
		t.Errorf("%v: %+v", err, c)
	}
	for _, bad := range []string{
		"EGRESS_PROXY_ADDR=bad-1", "EGRESS_PROXY_ADDR=:3128", "EGRESS_PROXY_ADDR=bad-1:0", "K8S_EGRESS_PODS=", "EGRESS_SECRET=bad-2", "EGRESS_SECRET=",
		"EGRESS_FEED_ADDR=bad-3", "EGRESS_CHECK_SOURCE=bad-4",
	} {
		name, _, _ := strings.Cut(bad, "=")
		if _, err := config.Load(append(whole, bad)); err == nil || !strings.Contains(err.Error(), name+" ") || strings.Contains(err.Error(), "bad-") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestAProxyNamesAllThatIsWrongWithItsConfiguration(t *testing.T) {
	t.Parallel()
	c, err := config.LoadEgress([]string{"EGRESS_SERVERS=a:1, b:2", "EGRESS_SECRET=0123456789abcdef", "SHUTDOWN_TIMEOUT=5m", "MASTER_KEY=not-its-business"})
	if err != nil || fmt.Sprint(c.Servers) != "[a:1 b:2]" || c.ListenAddr != "127.0.0.1:3128" || c.ShutdownTimeout != 5*time.Minute ||
		strings.Contains(fmt.Sprintf("%v %+v", c, c), "0123456789abcdef") {
		t.Errorf("%v: %+v", err, c)
	}
	_, err = config.LoadEgress([]string{
		"EGRESS_SECRET=bad-1", "EGRESS_SERVERS=a:1,bad-2", "EGRESS_LISTEN_ADDR=bad-3", "METRICS_ADDR=bad-4", "MAX_CONNECTIONS=bad-5", "SHUTDOWN_TIMEOUT=0s",
		"LOG_LEVEL=bad-6", "EGRESS_MAX_TUNNELS=-1",
	})
	if err == nil || strings.Contains(err.Error(), "bad-") {
		t.Fatalf("got %v", err)
	}
	for _, name := range []string{
		"EGRESS_SECRET", "EGRESS_SERVERS", "EGRESS_LISTEN_ADDR", "METRICS_ADDR", "MAX_CONNECTIONS", "SHUTDOWN_TIMEOUT", "LOG_LEVEL", "EGRESS_MAX_TUNNELS",
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+name+" ") {
			t.Errorf("%s is not in %v", name, err)
		}
	}
}

func TestInsideOfAClusterSandboxesAreItsPods(t *testing.T) {
	t.Parallel()
	inside := []string{"HOME=/x", "KUBERNETES_SERVICE_HOST=10.0.0.1", "K8S_PLATFORM_IMAGE=lap:1", "LISTEN_ADDR=:3000"}
	c, err := config.Load(append(inside, "K8S_HARNESS_IMAGE=all:1", "K8S_HARNESS_IMAGE_CODEX=codex:2", "K8S_IMAGE_PULL_SECRETS=a,b"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"opencode": "all:1", "claude-agent-sdk": "all:1", "claude-code": "all:1", "codex": "codex:2"}
	if got := c.HarnessImages(); c.Runtime != config.RuntimeKubernetes || !reflect.DeepEqual(got, want) || len(c.ImagePullSecrets) != 2 {
		t.Errorf("got %v, %+v", got, c)
	}
	c, err = config.Load(append(inside, "K8S_HARNESS_IMAGE_CLAUDE_SDK=claude:1"))
	if got := c.HarnessImages(); err != nil || !reflect.DeepEqual(got, map[string]string{"claude-agent-sdk": "claude:1"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if c, err := config.Load([]string{"HOME=/x", "KUBERNETES_SERVICE_HOST=10.0.0.1", "RUNTIME=local"}); err != nil || c.Runtime != config.RuntimeLocal {
		t.Errorf("local by choice: %v, %v", c.Runtime, err)
	}
	_, err = config.Load([]string{
		"HOME=/x", "RUNTIME=kubernetes", "K8S_NAMESPACE=Bad-1", "K8S_IMAGE_PULL_POLICY=bad-2", "K8S_RUNTIME_CLASS=Bad-3",
		"K8S_PRIORITY_CLASS=Bad-4", "SANDBOX_STORAGE_CLASS=Bad-5", "K8S_IMAGE_PULL_SECRETS=ok,Bad-6", "LITELLM_API_BASE=http://litellm.bad-7.svc:4000",
	})
	if err == nil || strings.Contains(strings.ToLower(err.Error()), "bad-") {
		t.Fatalf("got %v", err)
	}
	for _, name := range []string{
		"K8S_NAMESPACE", "K8S_PLATFORM_IMAGE", "K8S_HARNESS_IMAGE", "K8S_IMAGE_PULL_POLICY", "K8S_RUNTIME_CLASS", "K8S_PRIORITY_CLASS",
		"SANDBOX_STORAGE_CLASS", "K8S_IMAGE_PULL_SECRETS", "K8S_GATEWAY_PODS",
	} {
		if !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s is not in the error: %v", name, err)
		}
	}
}

func TestGeneratedKeysAreKeptAndNeverReplaced(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "data")
	load := func() config.Config {
		c, err := config.Load([]string{"DATA_DIR=" + dir})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const starts = 8
	configs := make([]config.Config, starts)
	generated := make([]bool, starts)
	var wg sync.WaitGroup
	for i := range starts {
		configs[i] = load()
		wg.Go(func() {
			var err error
			if generated[i], err = configs[i].EnsureSecrets(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	made := 0
	for i, c := range configs {
		if generated[i] {
			made++
		}
		if c.MasterKey != configs[0].MasterKey || c.EncryptionKey != configs[0].EncryptionKey || len(c.MasterKey) < 32 || len(c.EncryptionKey) < 32 ||
			c.MasterKey == c.EncryptionKey {
			t.Errorf("start %d has other keys", i)
		}
	}
	if made != 1 {
		t.Errorf("%d starts say they made the key", made)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("files %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	set := load()
	set.MasterKey = "a key that the operator set"
	if made, err := set.EnsureSecrets(); made || err != nil || set.MasterKey != "a key that the operator set" || set.EncryptionKey != configs[0].EncryptionKey {
		t.Errorf("with a master key: %v, %v", made, err)
	}
}

func TestAKeyFileThatIsNoKeyIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "encryption.key")
	if err := os.WriteFile(path, []byte("cut\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load([]string{"DATA_DIR=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnsureSecrets(); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "cut") {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "cut\n" {
		t.Errorf("file %q, %v", b, err)
	}
	c.DataDir = filepath.Join(path, "below-a-file")
	if _, err := c.EnsureSecrets(); err == nil {
		t.Error("a directory below a file was made")
	}
}

func TestSecretsShowNowhere(t *testing.T) {
	t.Parallel()
	const canary = "canary-5f2c"
	c := config.Config{MasterKey: canary, ContainerEnv: config.SecretMap{"A": canary}}
	var text strings.Builder
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&text, format+format+format, c, c.MasterKey, &c.MasterKey)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	text.Write(b)
	slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "config", c, "key", c.MasterKey)
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "config", c, "key", c.MasterKey)
	fmt.Fprint(&text, fmt.Errorf("with %w and %v", os.ErrNotExist, c.MasterKey), c.MasterKey.String(), c.MasterKey.GoString())
	if got := text.String(); strings.Contains(got, "canary") || strings.Contains(got, fmt.Sprintf("%x", "canary")) || !strings.Contains(got, "[redacted]") {
		t.Errorf("got %s", got)
	}
	if c.MasterKey.Reveal() != canary || fmt.Sprint(config.Secret("")) != "" {
		t.Error("Reveal or the empty secret is wrong")
	}
}

func TestEveryVariableIsDescribed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range config.Fields() {
		if f.Name == "" || f.Name == "-" || seen[f.Name] || !strings.HasSuffix(f.Description, ".") {
			t.Errorf("field %+v", f)
		}
		seen[f.Name] = true
	}
	if !seen["DATABASE_URL"] || !seen["CONTAINER_ENV_*"] || len(seen) != reflect.TypeFor[config.Config]().NumField() {
		t.Errorf("fields %v", seen)
	}
}
