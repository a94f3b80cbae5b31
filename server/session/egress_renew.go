package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// keepEgress renews the credential of a sandbox long before it expires, until ctx ends.
func (l *link) keepEgress(ctx context.Context, sess store.Session, agent store.Agent) error {
	tick := time.NewTicker(l.r.c.o.Egress.o.CredentialTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := l.r.c.o.Store.GetSession(ctx, sess.ID) // it may have been installed meanwhile
		if err != nil {
			return err
		}
		if err := l.renewEgress(ctx, now, agent); err != nil {
			return err
		}
	}
}

// renewEgress opens the way out of a sandbox that was bound before, by another server perhaps, and gives it a new credential,
// and the proxy's address, which may be another by now.
func (l *link) renewEgress(ctx context.Context, sess store.Session, agent store.Agent) error {
	o := l.r.c.o
	if o.Egress == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	own, err := l.r.settings(ctx, sess)
	if err != nil && !errors.Is(err, errNoSettings) {
		return err
	}
	gateway, err := o.gatewayOf(sess)
	if err != nil {
		return err
	}
	out, err := o.Egress.admit(ctx, &o, sess, agent, environment(o, gateway, agent, own))
	if err != nil {
		return err
	}
	res, err := l.api.RenewEgressWithResponse(ctx, sandboxd.EgressCredential{Credential: out.Credential, Proxy: &out.Proxy})
	if err != nil {
		return err
	}
	switch res.StatusCode() {
	case http.StatusNoContent:
		return nil
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict:
		o.Logger.Debug("sandbox was bound without a way out", "session_id", l.session, "sandbox_id", l.box)
		return nil
	}
	return fmt.Errorf("renew credential of sandbox: %s", refusal(res.StatusCode(), res.Body))
}

// endsInstallation tells whether a record says that requirements are installed, or that none are needed.
func endsInstallation(r sandboxd.Record) bool {
	if r.Type == "ready" {
		return true
	}
	var d struct {
		Phase string `json:"phase"`
	}
	return r.Type == "phase" && json.Unmarshal(r.Data, &d) == nil && afterInstallation(d.Phase)
}
