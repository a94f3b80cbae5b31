package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/litellm-agent-platform/lap/sandbox"
)

var _ sandbox.Checker = (*Runtime)(nil)

// Permissions is what the platform's user may do in the namespace of sandboxes: no more than it does.
func Permissions(portForward bool) []rbacv1.PolicyRule {
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"create", "delete", "get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"create", "delete", "get"}},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create", "delete", "get", "list", "update"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"list"}},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: []string{"create", "get", "update"}},
	}
	if portForward {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/portforward"}, Verbs: []string{"create"}})
	}
	return rules
}

// Check implements sandbox.Checker. What it says names no address.
func (r *Runtime) Check(ctx context.Context) sandbox.Report {
	report := sandbox.Report{Namespace: r.o.Namespace, Checks: []sandbox.Check{
		{Name: "api_server"}, {Name: "permissions"}, {Name: "watch"}, {Name: "network_policies"},
	}}
	var wg sync.WaitGroup
	wg.Go(func() { report.Version, report.Checks[0].Fault = r.checkServer(ctx) })
	wg.Go(func() { report.Checks[1].Fault = r.checkPermissions(ctx) })
	wg.Go(func() { report.Checks[3].Fault = r.checkPolicies(ctx) })
	wg.Wait()
	report.Checks[2].Fault = r.checkWatch()
	return report
}

// brokenFor is how long a watch that broke counts as broken. One that only ended is not, and one that is refused breaks again.
const brokenFor = 40 * time.Second

func (r *Runtime) checkWatch() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watchFault != "" && time.Since(r.watchBrokeAt) < brokenFor {
		return "the watch of pods broke, and is tried again: " + r.watchFault
	}
	select {
	case <-r.synced:
		return ""
	default:
		return "pods could not be listed and watched yet"
	}
}

func (r *Runtime) watchBroke(err error) {
	if errors.Is(err, io.EOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // every watch ends so now and then
	}
	r.mu.Lock()
	r.watchFault, r.watchBrokeAt = unanswered(err), time.Now()
	r.mu.Unlock()
	r.log.Warn("watch of pods is broken and tried again", "err", err)
}

func (r *Runtime) checkServer(ctx context.Context) (version, fault string) {
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	text, err := r.core.RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		return "", unanswered(err)
	}
	return v.GitVersion, ""
}

func (r *Runtime) checkPermissions(ctx context.Context) string {
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: r.o.Namespace}}
	if err := r.live.Create(ctx, review); err != nil {
		return unanswered(err)
	}
	var missing []string
	for _, need := range Permissions(r.o.PortForward) {
		for _, verb := range need.Verbs {
			if !review.Status.Incomplete && !permits(review.Status.ResourceRules, need.APIGroups[0], need.Resources[0], verb) {
				missing = append(missing, verb+" "+need.Resources[0])
			}
		}
	}
	if len(missing) > 0 {
		return "the platform may not " + strings.Join(missing, ", ")
	}
	return ""
}

func permits(rules []authorizationv1.ResourceRule, group, resource, verb string) bool {
	has := func(list []string, v string) bool { return slices.Contains(list, v) || slices.Contains(list, "*") }
	return slices.ContainsFunc(rules, func(rule authorizationv1.ResourceRule) bool {
		return len(rule.ResourceNames) == 0 && has(rule.APIGroups, group) && has(rule.Resources, resource) && has(rule.Verbs, verb)
	})
}

// checkPolicies does not put them in place: that is done before a sandbox is made.
func (r *Runtime) checkPolicies(ctx context.Context) string {
	for _, want := range r.o.policies {
		is := &networkingv1.NetworkPolicy{}
		err := r.live.Get(ctx, client.ObjectKeyFromObject(want), is)
		if apierrors.IsNotFound(err) {
			continue // the first sandbox brings them
		}
		if err != nil {
			return unanswered(err)
		}
		if !sameSpec(is, want) {
			return "network policy " + want.Name + " was changed; it is put right before the next sandbox is made"
		}
	}
	return ""
}

// unanswered says what an error of a call means, without addresses.
func unanswered(err error) string {
	switch {
	case apierrors.IsForbidden(err):
		return "the platform may not ask"
	case apierrors.IsUnauthorized(err):
		return "the API server does not know the platform's credentials"
	case apierrors.ReasonForError(err) != "":
		return fmt.Sprintf("the API server answers with %s", apierrors.ReasonForError(err))
	}
	return "the API server does not answer"
}
