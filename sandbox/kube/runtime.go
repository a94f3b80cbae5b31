// Package kube runs sandboxes as pods of a Kubernetes cluster. It owns, in one namespace, the pods, the volume claims and the
// settings of sessions, and the network policies that shut sandboxes in; one installation of the platform has a namespace of its
// own. What a pod is like is a pure function of specification and options, and what its state means a pure function of the pod.
// The package knows nothing of sessions' rows, of turns or of the protocol of sandboxd; nothing else in the module knows Kubernetes.
//
// A Runtime reads pods from a cache that a watch keeps current, and asks the API server itself before it says that there is none.
// It may be made while the cluster is unreachable: its methods fail until it is reached. It is safe for concurrent use, and
// several processes may have one for the same namespace.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	rtcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	callWithin   = 20 * time.Second // for one call of the API server
	syncWithin   = 5 * time.Second  // for the first sight of the cluster, before a method says that it is not reachable
	dialWithin   = 10 * time.Second // a node that is lost answers nothing
	deleteWithin = 2 * endWithin    // for a pod to be gone
	madeFor      = 10 * time.Second // how long the watch may take to tell of a pod that was made here
)

// ErrClosed is returned by a Runtime after Close.
var ErrClosed = errors.New("kube: runtime is closed")

// Options say how sandboxes are made. Config, Namespace, Image and Images are required.
type Options struct {
	Config        *rest.Config
	Namespace     string
	Image         string            // of the platform: its sandboxd is copied into every pod
	Images        map[string]string // of each harness that can be run, by harness id
	PullPolicy    string            // Always, IfNotPresent or Never; empty: the cluster's default
	PullSecrets   []string          // names of secrets of the namespace, beside the template's
	Template      string            // YAML of a PodTemplateSpec that pods are laid over; empty: none
	RuntimeClass  string            // of sandboxes; empty: the template's or the cluster's default
	PriorityClass string            // of sandboxes; likewise
	VolumeSize    string            // of a session's workspace, such as 10Gi; empty: it goes with its sandbox
	StorageClass  string            // of workspaces; empty: the cluster's default
	Network       Network
	PortForward   bool         // sandboxes are reached through the API server, for a platform outside of the cluster
	Logger        *slog.Logger // nil: discards

	template *corev1.PodTemplateSpec
	volume   *resource.Quantity
	policies []*networkingv1.NetworkPolicy
}

// parse checks what New was given, the pod template included, and reports all that is wrong under the names of the server's settings.
func (o *Options) parse() error {
	if o.Config == nil || o.Namespace == "" || o.Image == "" || len(o.Images) == 0 {
		return errors.New("kube: cluster, namespace, image and harness images are needed")
	}
	var errs []error
	if o.Template != "" {
		var err error
		if o.template, err = parseTemplate(o.Template); err != nil {
			errs = append(errs, fmt.Errorf("SANDBOX_POD_TEMPLATE %w", err))
		}
	}
	if o.VolumeSize != "" {
		size, err := resource.ParseQuantity(o.VolumeSize)
		if err != nil || size.Sign() <= 0 {
			errs = append(errs, errors.New("SANDBOX_VOLUME_SIZE is not a size such as 10Gi"))
		}
		o.volume = &size
	}
	var wrong []error
	o.policies, wrong = o.network()
	return errors.Join(append(errs, wrong...)...)
}

// Runtime is a sandbox.Runtime. Its goroutines are those of the cache and one per watcher; Close waits for all of them.
type Runtime struct {
	o      Options
	log    *slog.Logger
	live   client.Client // asks the API server
	cached client.Reader // reads what the watch told; its objects are shared and must not be changed
	core   corev1client.CoreV1Interface
	synced chan struct{} // closed when the cache has seen the cluster

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	policy  sync.Mutex // guards policed, while policies are put in place
	policed time.Time  // when they last were

	mu   sync.Mutex // guards the rest, and that no goroutine is added after Close
	made map[sandbox.ID]madePod
	subs map[*subscriber]struct{}
	gone map[sandbox.ID]chan struct{} // closed when the watch tells that the pod is gone

	watchFault   string // why the watch broke last, at watchBrokeAt
	watchBrokeAt time.Time
}

// madePod is a pod that was made here and that the watch has not told of.
type madePod struct {
	pod *corev1.Pod
	at  time.Time
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New returns a Runtime. It does not wait for the cluster.
func New(o Options) (*Runtime, error) {
	if err := o.parse(); err != nil {
		return nil, err
	}
	r := &Runtime{
		o: o, log: o.Logger, synced: make(chan struct{}), made: map[sandbox.ID]madePod{}, subs: map[*subscriber]struct{}{},
		gone: map[sandbox.ID]chan struct{}{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.connect(); err != nil {
		r.cancel()
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return r, nil
}

func (r *Runtime) connect() error {
	cfg := rest.CopyConfig(r.o.Config)
	cfg.QPS = -1 // the API server sees to fairness itself
	cfg.UserAgent = "lap"
	http, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	scheme, mapper, err := kinds()
	if err != nil {
		return err
	}
	if r.live, err = client.New(cfg, client.Options{HTTPClient: http, Scheme: scheme, Mapper: mapper}); err != nil {
		return err
	}
	if r.core, err = corev1client.NewForConfigAndClient(cfg, http); err != nil {
		return err
	}
	shared := true
	c, err := rtcache.New(cfg, rtcache.Options{
		HTTPClient: http, Scheme: scheme, Mapper: mapper, DefaultNamespaces: map[string]rtcache.Config{r.o.Namespace: {}},
		ByObject: map[client.Object]rtcache.ByObject{&corev1.Pod{}: {
			Label: apilabels.SelectorFromSet(apilabels.Set{nameLabel: podName}), Transform: rtcache.TransformStripManagedFields(),
			UnsafeDisableDeepCopy: &shared,
		}},
		DefaultWatchErrorHandler: func(ctx context.Context, _ *cache.Reflector, err error) {
			if ctx.Err() == nil {
				r.watchBroke(err)
			}
		},
	})
	if err != nil {
		return err
	}
	r.cached = c
	return r.follow(c)
}

// kinds are what the runtime works with; naming them here saves discovering them.
func kinds() (*runtime.Scheme, meta.RESTMapper, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), networkingv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme)); err != nil {
		return nil, nil, err
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Pod", "PodList", "PersistentVolumeClaim", "Secret", "SecretList"} {
		mapper.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	mapper.Add(networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), meta.RESTScopeNamespace)
	mapper.Add(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"), meta.RESTScopeRoot)
	return scheme, mapper, nil
}

// follow starts the cache and turns what it is told into changes of sandboxes.
func (r *Runtime) follow(c rtcache.Cache) error {
	r.wg.Go(func() {
		if err := c.Start(r.ctx); err != nil {
			r.log.Error("cache of pods ended", "err", err)
		}
	})
	informer, err := c.GetInformer(r.ctx, &corev1.Pod{}, rtcache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { r.changed(obj, false) },
		UpdateFunc: func(_, obj any) { r.changed(obj, false) },
		DeleteFunc: func(obj any) { r.changed(obj, true) },
	})
	if err != nil {
		return err
	}
	r.wg.Go(func() {
		if c.WaitForCacheSync(r.ctx) {
			close(r.synced)
		}
	})
	return nil
}

func (r *Runtime) changed(obj any, gone bool) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	id := sandbox.ID(pod.Name)
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.made[id]; ok && m.pod.UID == pod.UID {
		delete(r.made, id)
	}
	if gone {
		r.tellGone(id)
	}
	r.notify(id)
}

// LogTo sends what the Kubernetes libraries of this process log to a logger. It is called once, before New.
func LogTo(l *slog.Logger) {
	to := logr.FromSlogHandler(l.Handler())
	klog.SetLogger(to)
	log.SetLogger(to)
}

// Close ends the runtime's goroutines and waits for them. Sandboxes go on. It is idempotent.
func (r *Runtime) Close() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.wg.Wait()
}

// Harnesses lists the harness ids that Create accepts.
func (r *Runtime) Harnesses() []string { return slices.Sorted(maps.Keys(r.o.Images)) }

// ready waits a moment for the first sight of the cluster.
func (r *Runtime) ready(ctx context.Context) error {
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	select {
	case <-r.synced:
		return nil
	default:
	}
	wait := time.NewTimer(syncWithin)
	defer wait.Stop()
	select {
	case <-r.synced:
		return nil
	case <-r.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return errors.New("the Kubernetes API server cannot be reached, or does not let the platform list and watch pods")
	}
}

// Get implements sandbox.Runtime.
func (r *Runtime) Get(ctx context.Context, id sandbox.ID) (sandbox.Status, error) {
	pod, err := r.pod(ctx, id)
	if err != nil {
		return sandbox.Status{}, err
	}
	return status(pod), nil
}

// pod returns a sandbox's pod, which must not be changed.
func (r *Runtime) pod(ctx context.Context, id sandbox.ID) (*corev1.Pod, error) {
	if !isName(string(id)) {
		return nil, notFound(id)
	}
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	key := client.ObjectKey{Namespace: r.o.Namespace, Name: string(id)}
	if err := r.cached.Get(ctx, key, pod); err == nil {
		return pod, nil
	}
	if pod := r.justMade(id); pod != nil {
		return pod, nil
	}
	// The watch may be behind: another process may have made it a moment ago.
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	err := r.live.Get(ctx, key, pod)
	if apierrors.IsNotFound(err) || err == nil && pod.Labels[nameLabel] != podName {
		return nil, notFound(id)
	}
	if err != nil {
		return nil, fmt.Errorf("get pod %s: %w", id, err)
	}
	return pod, nil
}

func (r *Runtime) justMade(id sandbox.ID) *corev1.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.made[id]
	if ok && time.Since(m.at) > madeFor {
		delete(r.made, id)
		return nil
	}
	return m.pod
}

func notFound(id sandbox.ID) error { return fmt.Errorf("sandbox %q: %w", id, sandbox.ErrNotFound) }

// List implements sandbox.Runtime; the oldest comes first.
func (r *Runtime) List(ctx context.Context) ([]sandbox.Status, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	all := map[sandbox.ID]sandbox.Status{}
	r.mu.Lock() // before the cache is read: what is forgotten here is there by then
	for id, m := range r.made {
		if time.Since(m.at) <= madeFor {
			all[id] = status(m.pod)
		}
	}
	r.mu.Unlock()
	var pods corev1.PodList
	if err := r.cached.List(ctx, &pods, client.InNamespace(r.o.Namespace)); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		all[sandbox.ID(pods.Items[i].Name)] = status(&pods.Items[i])
	}
	return slices.SortedFunc(maps.Values(all), func(a, b sandbox.Status) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	}), nil
}
