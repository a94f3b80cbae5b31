package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Delete implements sandbox.Runtime. It never forces: a pod whose node does not answer may still run, so that is an error until the
// cluster has given up the node.
func (r *Runtime) Delete(ctx context.Context, id sandbox.ID) error {
	pod, err := r.pod(ctx, id)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = r.delete(ctx, id, pod)
	}
	if err != nil {
		return fmt.Errorf("delete sandbox %s: %w", id, err)
	}
	return nil
}

func (r *Runtime) delete(ctx context.Context, id sandbox.ID, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, deleteWithin)
	defer cancel()
	gone := r.awaitGone(id)
	if pod.DeletionTimestamp == nil {
		err := r.live.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.o.Namespace, Name: string(id)}},
			client.Preconditions{UID: &pod.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return refused(err)
		}
	}
	if err := r.wait(ctx, pod, gone); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.made, id)
	r.tellGone(id)
	return nil
}

// tellGone ends the waiting for a pod. The caller holds the mutex.
func (r *Runtime) tellGone(id sandbox.ID) {
	if ch := r.gone[id]; ch != nil {
		close(ch)
		delete(r.gone, id)
	}
}

// awaitGone returns a channel that is closed when the watch tells that a pod is gone.
func (r *Runtime) awaitGone(id sandbox.ID) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone[id] == nil {
		r.gone[id] = make(chan struct{})
	}
	return r.gone[id]
}

// wait returns when a pod is gone. The watch may have told of it before anybody waited, or be broken, so the API server is asked
// now and then.
func (r *Runtime) wait(ctx context.Context, pod *corev1.Pod, gone <-chan struct{}) error {
	every := 50 * time.Millisecond
	for {
		ask := time.NewTimer(every)
		select {
		case <-gone:
			ask.Stop()
			return nil
		case <-ctx.Done():
			ask.Stop()
			return fmt.Errorf("its pod is still there, on node %q: %w", pod.Spec.NodeName, ctx.Err())
		case <-r.ctx.Done():
			ask.Stop()
			return ErrClosed
		case <-ask.C:
		}
		is := &corev1.Pod{}
		err := r.live.Get(ctx, client.ObjectKey{Namespace: r.o.Namespace, Name: pod.Name}, is)
		if (apierrors.IsNotFound(err) || err == nil && is.UID != pod.UID) && !r.remembers(ctx, pod) {
			return nil
		}
		every = min(2*every, 2*time.Second)
	}
}

// remembers reports whether the cache still has a pod.
func (r *Runtime) remembers(ctx context.Context, pod *corev1.Pod) bool {
	is := &corev1.Pod{}
	return r.cached.Get(ctx, client.ObjectKeyFromObject(pod), is) == nil && is.UID == pod.UID
}

// StopAll deletes every sandbox. It returns when nothing of them runs any more, or ctx has ended.
func (r *Runtime) StopAll(ctx context.Context) error {
	all, err := r.List(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() { errs[i] = r.Delete(ctx, s.ID) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// KeepsWorkspaces implements sandbox.Runtime.
func (r *Runtime) KeepsWorkspaces() bool { return r.o.volume != nil }

// DeleteWorkspace implements sandbox.Runtime. It returns when the claim is gone; what becomes of the volume then is the storage
// class's reclaim policy.
func (r *Runtime) DeleteWorkspace(ctx context.Context, sessionID string) error {
	if !isSessionID(sessionID) { // such an id has no workspace
		return nil
	}
	all, err := r.List(ctx)
	if err != nil {
		return fmt.Errorf("delete workspace of %s: %w", sessionID, err)
	}
	for _, s := range all {
		if s.SessionID == sessionID {
			return fmt.Errorf("delete workspace of %s: sandbox %s uses it", sessionID, s.ID)
		}
	}
	if err := r.deleteClaim(ctx, sessionID); err != nil {
		return fmt.Errorf("delete workspace of %s: %w", sessionID, err)
	}
	return nil
}

func (r *Runtime) deleteClaim(ctx context.Context, sessionID string) error {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: r.o.Namespace, Name: claimName(sessionID)}}
	err := r.live.Delete(ctx, pvc)
	every := 20 * time.Millisecond
	for err == nil {
		if err = r.live.Get(ctx, client.ObjectKeyFromObject(pvc), pvc); err != nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its volume claim is still there: %w", ctx.Err())
		case <-time.After(every):
		}
		every = min(2*every, time.Second)
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return refused(err)
}
