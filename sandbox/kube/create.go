package kube

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// name is what can be the name of a pod and a label.
var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func isName(s string) bool { return name.MatchString(s) }

// isSessionID accepts the one spelling of a UUID that names are made of.
func isSessionID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// Create implements sandbox.Runtime. What the cluster refuses, by quota or admission, is an error with its words; it may be tried
// again. A pod of that id that is being deleted is an error, too: it will not serve anybody.
func (r *Runtime) Create(ctx context.Context, spec sandbox.Spec) error {
	err := r.check(spec)
	if err == nil {
		err = r.create(ctx, spec)
	}
	if err != nil {
		return fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	return nil
}

func (r *Runtime) check(spec sandbox.Spec) error {
	switch {
	case !isName(string(spec.ID)):
		return fmt.Errorf("%w: %q cannot be a sandbox id", sandbox.ErrRefused, spec.ID)
	case !isSessionID(spec.SessionID):
		return fmt.Errorf("%w: %q is not a session id", sandbox.ErrRefused, spec.SessionID)
	case len(spec.CallerKey) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: no caller key", sandbox.ErrRefused)
	case r.o.Images[spec.Harness] == "":
		return fmt.Errorf("%w: there is no image for harness %q, only for %s", sandbox.ErrRefused, spec.Harness, strings.Join(r.Harnesses(), ", "))
	}
	return nil
}

func (r *Runtime) create(ctx context.Context, spec sandbox.Spec) error {
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	// Its caller must learn whether the sandbox is made.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callWithin)
	defer cancel()
	pod, err := podOf(spec, r.o)
	if err != nil {
		return err
	}
	if err := r.shutIn(ctx); err != nil {
		return err
	}
	if r.o.volume != nil {
		if err := r.createClaim(ctx, spec.SessionID); err != nil {
			return fmt.Errorf("workspace: %w", refused(err))
		}
	}
	err = r.live.Create(ctx, pod)
	if apierrors.IsAlreadyExists(err) {
		return r.exists(ctx, spec)
	}
	if err != nil {
		return refused(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.remembers(ctx, pod) { // the watch may have been faster than the answer
		r.made[spec.ID] = madePod{pod, time.Now()}
	}
	r.notify(spec.ID)
	return nil
}

// exists reports whether the pod that is there is the one to be made.
func (r *Runtime) exists(ctx context.Context, spec sandbox.Spec) error {
	pod := &corev1.Pod{}
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: r.o.Namespace, Name: string(spec.ID)}, pod); err != nil {
		return refused(err)
	}
	switch {
	case !isOf(pod, spec):
		return errors.New("there is a pod of that id with another specification")
	case pod.DeletionTimestamp != nil:
		return errors.New("its pod is being deleted")
	}
	return nil
}

func (r *Runtime) createClaim(ctx context.Context, sessionID string) error {
	pvc := claim(sessionID, r.o)
	err := r.live.Create(ctx, pvc)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(pvc), pvc); err != nil {
		return err
	}
	if pvc.DeletionTimestamp != nil {
		return errors.New("the former one is still being deleted")
	}
	return nil
}

// refused keeps of an API server's answer what says why. Quotas get free again and rights may be given; what the cluster finds
// wrong with the object itself stays wrong.
func refused(err error) error {
	var status apierrors.APIStatus
	if err == nil || !errors.As(err, &status) {
		return err
	}
	said := status.Status().Message
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(said, "exceeded quota"):
		return errors.New(words("the namespace's quota is used up", said))
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err) && (strings.Contains(said, "violates PodSecurity") ||
		strings.Contains(said, "denied request") || strings.Contains(said, "denied the request")):
		return fmt.Errorf("%w: %s", sandbox.ErrRefused, words("the cluster does not admit it", said))
	case apierrors.IsForbidden(err):
		return errors.New(words("the cluster does not let the platform do it, or does not admit it", said))
	}
	return errors.New(words("the cluster refuses it", said))
}
