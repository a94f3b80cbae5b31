package session

import (
	"context"
	"encoding/base64"
	"errors"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/gateway"
	"github.com/litellm-agent-platform/lap/store"
)

// A session has a key of the gateway while it has a sandbox, if the operator lets keys be made. It is derived, so that one that was
// made before the server was killed is the same, and is stored nowhere.
func (o Options) gatewayOf(s store.Session) (sandboxd.Gateway, error) {
	g := o.Gateway
	if o.GatewayKeys == nil {
		return g, nil
	}
	key, ok := o.Keyring.DeriveFor(s.KeyID, "gateway-key "+s.ID)
	if !ok {
		return g, errors.New("the encryption key that the session's sandbox was begun with is not configured any more")
	}
	g.APIKey = "sk-lap-" + base64.RawURLEncoding.EncodeToString(key[:])
	return g, nil
}

func gatewayAlias(s store.Session) string { return "lap-session-" + s.ID }

// makeKey returns the gateway as a session's sandbox may use it.
func (r *reconciler) makeKey(ctx context.Context, s store.Session, model string) (sandboxd.Gateway, error) {
	o := r.c.o
	g, err := o.gatewayOf(s)
	if err != nil || o.GatewayKeys == nil {
		return g, err
	}
	return g, o.GatewayKeys.Make(ctx, gateway.Key{
		Alias: gatewayAlias(s), Value: g.APIKey, Model: model, Metadata: map[string]string{"session_id": s.ID, "agent_id": s.AgentID},
	})
}

// endKey deletes the key of a session that has no sandbox any more.
func (r *reconciler) endKey(ctx context.Context, s store.Session) error {
	if r.c.o.GatewayKeys == nil || s.KeyID == "" {
		return nil
	}
	return r.c.o.GatewayKeys.Delete(ctx, gatewayAlias(s))
}
