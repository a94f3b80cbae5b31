package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	settingsKey = "env.json"
	storedNote  = labelPrefix + "stored-at"
)

// Settings returns the sandbox.Settings of the same namespace: a Secret per session, without an owner, never in a cache.
func (r *Runtime) Settings() sandbox.Settings { return settings{r} }

type settings struct{ r *Runtime }

func secretName(sessionID string) string { return "settings-" + sessionID }

// Put implements sandbox.Settings.
func (s settings) Put(ctx context.Context, sessionID string, env map[string]string) error {
	if !isSessionID(sessionID) {
		return fmt.Errorf("settings of session %q, which is not a lower-case UUID: %w", sessionID, sandbox.ErrNotFound)
	}
	if env == nil {
		env = map[string]string{}
	}
	data, err := json.Marshal(env)
	if err != nil {
		return fmt.Errorf("settings of session %s: %w", sessionID, err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: secretName(sessionID), Namespace: s.r.o.Namespace,
			Labels:      map[string]string{nameLabel: settingsName, "app.kubernetes.io/managed-by": "lap", sessionLabel: sessionID},
			Annotations: map[string]string{storedNote: time.Now().UTC().Format(time.RFC3339Nano)},
		},
		Data: map[string][]byte{settingsKey: data},
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	err = s.r.live.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		err = s.r.live.Update(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("settings of session %s: %w", sessionID, refused(err))
	}
	return nil
}

// Get implements sandbox.Settings.
func (s settings) Get(ctx context.Context, sessionID string) (map[string]string, error) {
	if !isSessionID(sessionID) {
		return nil, fmt.Errorf("settings of session %q, which is not a lower-case UUID: %w", sessionID, sandbox.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	secret := &corev1.Secret{}
	err := s.r.live.Get(ctx, client.ObjectKey{Namespace: s.r.o.Namespace, Name: secretName(sessionID)}, secret)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("settings of session %s: %w", sessionID, sandbox.ErrNotFound)
	}
	var env map[string]string
	if err == nil {
		err = json.Unmarshal(secret.Data[settingsKey], &env)
	}
	if err != nil {
		return nil, fmt.Errorf("settings of session %s: %w", sessionID, err)
	}
	return env, nil
}

// Delete implements sandbox.Settings.
func (s settings) Delete(ctx context.Context, sessionID string) error {
	if !isSessionID(sessionID) { // such an id has no settings
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	err := s.r.live.Delete(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.r.o.Namespace, Name: secretName(sessionID)},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("settings of session %s: %w", sessionID, refused(err))
	}
	return nil
}

// List implements sandbox.Settings. It does not read the secrets' values.
func (s settings) List(ctx context.Context) (map[string]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := s.r.live.List(ctx, list, client.InNamespace(s.r.o.Namespace), client.MatchingLabels{nameLabel: settingsName})
	if err != nil {
		return nil, fmt.Errorf("list settings: %w", err)
	}
	out := map[string]time.Time{}
	for i := range list.Items {
		secret := &list.Items[i]
		stored := secret.CreationTimestamp.Time
		if t, err := time.Parse(time.RFC3339Nano, secret.Annotations[storedNote]); err == nil {
			stored = t
		}
		if id := secret.Labels[sessionLabel]; isSessionID(id) {
			out[id] = stored
		}
	}
	return out, nil
}
