package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	minKeyLength   = 16
	maxSessionRate = 10_000 // what the database counts for each new session

	maxSessionBudget = 1_000_000
)

// check refuses values that cannot work and brings the others into one form.
func (c *Config) check(p *problems) {
	c.checkListen(p)
	c.checkKeys(p)
	c.checkURLs(p)
	switch c.Runtime {
	case RuntimeLocal:
	case RuntimeKubernetes:
		c.checkKubernetes(p)
	default:
		p.add("RUNTIME", "is neither local nor kubernetes")
	}
	if c.StartTimeout <= 0 {
		p.add("START_TIMEOUT", "must be more than 0")
	}
	if c.TurnTimeout <= 0 {
		p.add("TURN_TIMEOUT", "must be more than 0")
	}
	if c.ShutdownTimeout <= 0 {
		p.add("SHUTDOWN_TIMEOUT", "must be more than 0")
	}
	if c.MaxConnections <= 0 {
		p.add("MAX_CONNECTIONS", "must be more than 0")
	}
	c.checkSessions(p)
	c.checkGit(p)
	c.checkEgress(p)
	c.checkEgressProxy(p)
}

func (c *Config) checkEgress(p *problems) {
	if !slices.Contains([]string{NetworkAuto, NetworkOwn, NetworkShared}, c.SandboxNetwork) {
		p.add("SANDBOX_NETWORK", "is neither auto nor own nor shared")
	}
	if c.EgressMode != EgressEnforce && c.EgressMode != EgressObserve {
		p.add("EGRESS_MODE", "is neither enforce nor observe")
	}
	for name, list := range map[string][]string{"EGRESS_ALLOW_CIDRS": c.EgressAllow, "EGRESS_DENY_CIDRS": c.EgressDeny} {
		for i, entry := range list {
			entry = strings.TrimSpace(entry)
			if address, err := netip.ParseAddr(entry); err == nil && address.Zone() == "" {
				entry = netip.PrefixFrom(address, address.BitLen()).String()
			}
			if _, err := netip.ParsePrefix(entry); err != nil {
				p.add(name, "has an entry that is neither an IP address nor a CIDR")
				break
			}
			list[i] = entry
		}
	}
	for i, host := range c.EgressIndexes {
		host = strings.ToLower(strings.TrimSpace(host))
		if host == "" || strings.ContainsAny(host, "/@: ") {
			p.add("EGRESS_PACKAGE_INDEXES", "has an entry that is not a host name")
			break
		}
		c.EgressIndexes[i] = host
	}
}

func (c *Config) checkEgressProxy(p *problems) {
	if c.EgressProxy == "" {
		if c.EgressPods != "" {
			p.add("EGRESS_PROXY_ADDR", "must be set together with K8S_EGRESS_PODS")
		}
		return
	}
	if c.Runtime != RuntimeKubernetes {
		p.add("EGRESS_PROXY_ADDR", "is for the kubernetes runtime; the local one has a proxy of its own")
	}
	if host, port, err := net.SplitHostPort(c.EgressProxy); err != nil || host == "" || !isPort(port) {
		p.add("EGRESS_PROXY_ADDR", "is not host:port")
	}
	if _, _, err := net.SplitHostPort(c.EgressFeedAddr); err != nil {
		p.add("EGRESS_FEED_ADDR", "is not host:port")
	}
	if c.EgressPods == "" {
		p.add("K8S_EGRESS_PODS", "must be set together with EGRESS_PROXY_ADDR")
	}
	checkMasterKey("EGRESS_SECRET", c.EgressSecret, p)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (c *Config) checkSessions(p *problems) {
	if c.MaxSessions < 0 {
		p.add("MAX_SESSIONS", "must not be less than 0")
	}
	if c.SessionRate < 0 || c.SessionRate > maxSessionRate {
		p.add("SESSION_RATE", "must be between 0 and %d", maxSessionRate)
	}
	if c.SessionRetention < 0 {
		p.add("SESSION_RETENTION", "must not be less than 0")
	}
	switch {
	case c.DataRetention < 0:
		p.add("DATA_RETENTION", "must not be less than 0")
	case c.DataRetention > 0 && (c.SessionRetention == 0 || c.SessionRetention > c.DataRetention):
		p.add("DATA_RETENTION", "must not be less than SESSION_RETENTION: rows go after the workspace")
	}
}

func (c *Config) checkListen(p *problems) {
	host, _, err := net.SplitHostPort(c.ListenAddr)
	switch {
	case err != nil:
		p.add("LISTEN_ADDR", "is not host:port")
	case c.Runtime == RuntimeLocal && !c.AllowNonLoopback && !loopback(host):
		p.add("LISTEN_ADDR", "is not a loopback address; the local runtime runs sandboxes as processes of this machine, "+
			"so set ALLOW_NON_LOOPBACK=true if others may reach it")
	}
	if c.MetricsAddr != "off" {
		if _, _, err := net.SplitHostPort(c.MetricsAddr); err != nil {
			p.add("METRICS_ADDR", "is neither host:port nor off")
		}
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func (c *Config) checkKeys(p *problems) {
	if db := c.DatabaseURL.Reveal(); db != "" {
		if !strings.HasPrefix(db, "postgres://") && !strings.HasPrefix(db, "postgresql://") {
			p.add("DATABASE_URL", "does not start with postgres://")
		}
		if c.MasterKey == "" {
			p.add("MASTER_KEY", "must be set together with DATABASE_URL")
		}
		if c.EncryptionKey == "" {
			p.add("ENCRYPTION_KEY", "must be set together with DATABASE_URL")
		}
	}
	if c.MasterKey != "" {
		checkMasterKey("MASTER_KEY", c.MasterKey, p)
	}
	if c.EncryptionKey != "" {
		checkEncryptionKey("ENCRYPTION_KEY", c.EncryptionKey, p)
	}
}

func checkMasterKey(name string, key Secret, p *problems) {
	if len(key) < minKeyLength || strings.ContainsFunc(key.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		p.add(name, "must have at least %d visible ASCII characters and no others", minKeyLength)
	}
}

func checkEncryptionKey(name string, list Secret, p *problems) {
	for part := range strings.SplitSeq(list.Reveal(), ",") {
		if len(strings.TrimSpace(part)) < minKeyLength {
			p.add(name, "must have at least %d characters in each key", minKeyLength)
			return
		}
	}
}

func (c *Config) checkURLs(p *problems) {
	if c.BaseURL == "" {
		c.BaseURL = "http://" + c.ListenAddr
	} else if u := webURL(c.BaseURL); u == nil {
		p.add("BASE_URL", "is not an http or https URL without user, query and fragment")
	}
	c.BaseURL = strings.TrimRight(c.BaseURL, "/")
	for i, origin := range c.CORSOrigins {
		u := webURL(strings.TrimSpace(origin))
		if u == nil || strings.Trim(u.Path, "/") != "" {
			p.add("CORS_ALLOWED_ORIGINS", "has an entry that is not an origin such as https://console.example.com")
			break
		}
		c.CORSOrigins[i] = Origin(u.String())
	}
	if c.LiteLLMAPIBase != "" {
		if webURL(c.LiteLLMAPIBase) == nil {
			p.add("LITELLM_API_BASE", "is not an http or https URL without user, query and fragment")
		}
		c.LiteLLMAPIBase = strings.TrimRight(strings.TrimSuffix(strings.TrimRight(c.LiteLLMAPIBase, "/"), "/v1"), "/")
	} else if c.LiteLLMAPIKey != "" || c.LiteLLMMasterKey != "" {
		p.add("LITELLM_API_BASE", "must be set together with LITELLM_API_KEY or LITELLM_MASTER_KEY")
	}
	switch {
	case !(c.SessionBudget >= 0 && c.SessionBudget <= maxSessionBudget):
		p.add("SESSION_BUDGET", "must be between 0 and %d", maxSessionBudget)
	case c.SessionBudget > 0 && c.LiteLLMMasterKey == "":
		p.add("LITELLM_MASTER_KEY", "must be set together with SESSION_BUDGET")
	}
}

func webURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.ContainsAny(s, "?#") {
		return nil
	}
	return u
}

// Origin returns the origin of an http or https URL as browsers write it, or nothing if it is none.
func Origin(s string) string {
	u := webURL(s)
	if u == nil {
		return ""
	}
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == "80" && u.Scheme == "http" || port == "443" && u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}

func (c *Config) checkGit(p *problems) {
	for i, host := range c.GitTokenHosts {
		host = strings.ToLower(strings.TrimSpace(host))
		if host == "" || strings.ContainsAny(host, "/@ *") {
			p.add("GIT_TOKEN_HOSTS", "has an entry that is not a host name")
			break
		}
		c.GitTokenHosts[i] = host
	}
	schemes := []string{"https"}
	for _, scheme := range c.RepoURLSchemes {
		scheme = strings.ToLower(strings.TrimSpace(scheme))
		if !slices.Contains([]string{"https", "http", "file"}, scheme) {
			p.add("REPO_URL_SCHEMES", "has an entry other than https, http and file")
			break
		}
		if !slices.Contains(schemes, scheme) {
			schemes = append(schemes, scheme)
		}
	}
	c.RepoURLSchemes = schemes
}
