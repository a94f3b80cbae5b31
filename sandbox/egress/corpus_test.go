package egress_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// noContent is an upstream that answers each request with 204.
func noContent(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestTheProxyDecidesEveryAttemptOfTheCorpusForATunnelAndForAURL(t *testing.T) {
	t.Parallel()
	var scenarios []struct {
		Name       string
		Policy     policy.Spec
		Installing bool
		DNS        map[string]struct{ Addrs, Names []string }
		Attempts   []struct{ Target, Want, Rule string }
	}
	readJSON(t, "testdata/decisions.json", &scenarios)
	statuses := map[string]int{"allow": 200, "deny": 403, "invalid": 400, "unresolved": 502}
	upstream := noContent(t)
	for _, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			w := &world{upstream: upstream}
			r := start(t, w, egress.Options{}, s.Policy)
			delete(w.dns, "example.com")
			for name, a := range s.DNS {
				w.set(name, a.Addrs...)
				answer := w.dns[name]
				answer.Names = a.Names
				w.dns[name] = answer
			}
			r.Open(r.key, egress.Session{Policy: r.policy, Installing: s.Installing})
			for _, a := range s.Attempts {
				for _, form := range []string{"CONNECT " + a.Target, "GET http://" + a.Target + "/"} {
					r.try(t, form, a.Target, a.Rule, statuses[a.Want])
				}
			}
		})
	}
}

// try sends one attempt and checks the answer, and that nothing but an answer of the resolver was dialed.
func (r *rig) try(t *testing.T, form, target, rule string, want int) {
	t.Helper()
	if strings.HasPrefix(form, "GET") {
		if strings.HasPrefix(target, "http:") || target == "example.com" || target == "example.com:" || strings.Contains(target, "/") {
			return // as a URL these mean something else
		}
		if want == 200 {
			want = 204
		}
	}
	_, before := r.world.seen()
	status, said := r.answerTo(t, form+" HTTP/1.1\r\nHost: "+target+"\r\n"+r.auth()+"\r\n")
	if status != want || status == 403 && said.Rule != rule {
		t.Errorf("%s: got %d %+v, want %d by %q", form, status, said, want, rule)
	}
	_, after := r.world.seen()
	if status >= 400 && len(after) != len(before) {
		t.Errorf("%s: dialed %v although it is refused", form, after[len(before):])
	}
	for _, to := range after[len(before):] {
		if !r.world.has(target, to) {
			t.Errorf("%s: dialed %v", form, to)
		}
	}
}

func (w *world) has(target string, to netip.AddrPort) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	host, _, _ := net.SplitHostPort(target)
	if a, err := netip.ParseAddr(host); err == nil {
		return a == to.Addr()
	}
	return slices.Contains(w.dns[strings.ToLower(strings.TrimSuffix(host, "."))].Addrs, to.Addr())
}

func TestEveryRequestOfTheCorpusIsAnsweredAsItSays(t *testing.T) {
	t.Parallel()
	var requests []struct {
		Name, Request string
		Status        int
	}
	readJSON(t, "testdata/requests.json", &requests)
	r := start(t, &world{upstream: noContent(t)}, egress.Options{}, policy.Spec{})
	for _, q := range requests {
		_, before := r.world.seen()
		status, _ := r.answerTo(t, strings.ReplaceAll(q.Request, "{auth}", r.auth()))
		_, after := r.world.seen()
		if status != q.Status {
			t.Errorf("%s: got %d, want %d", q.Name, status, q.Status)
		}
		if status >= 400 && len(after) != len(before) {
			t.Errorf("%s: refused, but %v was dialed", q.Name, after[len(before):])
		}
	}
}

func TestANameThatIsDeniedInAnyCaseIsNeverAskedFor(t *testing.T) {
	t.Parallel()
	w := &world{upstream: noContent(t)}
	r := start(t, w, egress.Options{}, policy.Spec{AllowOut: []string{"example.com"}, DenyOut: []string{"*.evil.org"}, Routes: []string{"gateway:4000"}})
	for _, target := range []string{"c2VjcmV0.exfiltration.example:443", "c2VjcmV0.evil.org:443", "c2VjcmV0.example.com:25"} {
		rule := map[string]string{"c2VjcmV0.exfiltration.example:443": "allow_out", "c2VjcmV0.evil.org:443": "deny_out", "c2VjcmV0.example.com:25": "port"}[target]
		r.try(t, "CONNECT "+target, target, rule, 403)
	}
	if asked, _ := w.seen(); len(asked) > 0 {
		t.Errorf("asked for %v", asked)
	}
	w.set("gateway", "10.0.0.4")
	r.try(t, "CONNECT gateway:4000", "gateway:4000", "", 200)
	r.try(t, "CONNECT example.com:443", "example.com:443", "", 200)
	if asked, _ := w.seen(); !slices.Equal(asked, []string{"gateway true", "example.com false"}) {
		t.Errorf("asked for %v: only what the operator names is searched for", asked)
	}
}
