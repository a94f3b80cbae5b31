package session

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	slowStart = 2 * time.Minute
	slowTurn  = 10 * time.Minute
)

// Severities of issues.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
	SeverityInfo    = "info"
)

// Issue is one thing that is wrong. Codes are stable; the OpenAPI document lists them.
type Issue struct{ Code, Severity, Message, Action string }

// Condition is something that has to hold for a message to be answered.
type Condition struct{ Type, Status, Message string }

// endedOnPurpose are the reasons of ends that somebody asked for, or that the server's settings ask for.
var endedOnPurpose = []string{"stopped", "deleted", agentDeleted}

func (d *Diagnosis) conditions(gateway bool) []Condition {
	list := []Condition{{Type: "gateway_configured"}, {Type: "sandbox_running"}, {Type: "sandbox_answers"}, {Type: "harness_ready"}}
	why := []string{"", d.notRunning(), "", ""}
	if !gateway {
		why[0] = "no model gateway is configured"
	}
	if d.Probe != nil {
		why[2] = d.Probe.Err
		if d.Probe.State != "ready" {
			why[3] = "its state is " + d.Probe.State
		}
	}
	for i := range list {
		switch {
		case i == 1 && d.Sandbox == nil && d.Session.SandboxID != "",
			i == 2 && d.Probe == nil,
			i == 3 && (d.Probe == nil || d.Probe.Err != ""):
			list[i].Status, list[i].Message = "unknown", "there is no sandbox that answers"
		case why[i] != "":
			list[i].Status, list[i].Message = "false", why[i]
		default:
			list[i].Status = "true"
		}
	}
	return list
}

// notRunning says why the sandbox does not run, nothing if it does.
func (d *Diagnosis) notRunning() string {
	switch {
	case d.Session.SandboxID == "":
		return "the session has no sandbox"
	case d.Sandbox == nil || d.Sandbox.State == sandbox.Running:
		return ""
	case d.Sandbox.State == sandbox.Starting:
		return strings.TrimSuffix("it starts: "+d.Sandbox.Detail, ": ")
	case d.Sandbox.State == SandboxMissing:
		return "it does not exist any more"
	}
	return "it has ended: " + d.Sandbox.Reason
}

// issues lists what is wrong, worst first.
func (d *Diagnosis) issues(o *Options) []Issue {
	var found []Issue
	if o.Gateway.BaseURL == "" {
		found = append(found, Issue{"gateway_not_configured", SeverityError, "This server has no model gateway.",
			"Set LITELLM_API_BASE and LITELLM_API_KEY and restart the server."})
	}
	found = append(found, d.endIssues()...)
	found = append(found, d.causeIssues()...)
	found = append(found, d.sandboxIssues(o)...)
	found = append(found, d.turnIssues()...)
	for _, m := range d.MCPServers {
		if m.Status != "connected" && m.Status != "disabled" {
			found = append(found, Issue{"mcp_server_down", SeverityWarning,
				strings.TrimSuffix(fmt.Sprintf("MCP server %s is %s: %s", m.Name, m.Status, m.Message), ": ") + ".",
				"Check its URL and credentials in the agent's mcp_servers, then open another session."})
		}
	}
	if !o.Isolated {
		but := "nothing isolates them"
		if o.EgressEnforced {
			but = "nothing but their network is isolated"
		}
		found = append(found, Issue{"not_isolated", SeverityWarning, "Sandboxes are processes of the server's machine and user; " + but + ".",
			"Run only agents and repositories that are trusted with that machine."})
	}
	if a := d.Agent; !o.EgressEnforced && a != nil && len(a.AllowOut)+len(a.DenyOut) > 0 {
		gap, remedy := o.Egress.gap()
		found = append(found, Issue{"egress_not_enforced", SeverityWarning,
			"The agent's allow_out and deny_out are advisory in this server's runtime: " + gap + ".",
			"Do not rely on them here; " + remedy + "."})
	}
	found = append(found, d.egressIssues(o)...)
	rank := []string{SeverityError, SeverityWarning, SeverityInfo}
	slices.SortStableFunc(found, func(a, b Issue) int { return slices.Index(rank, a.Severity) - slices.Index(rank, b.Severity) })
	return found
}

// egressIssues are about hosts that the sandbox was kept from.
func (d *Diagnosis) egressIssues(o *Options) (found []Issue) {
	if a := d.Agent; o.Egress.enforcement() == EgressObserved && a != nil && len(a.AllowOut)+len(a.DenyOut) > 0 {
		found = append(found, Issue{"egress_observed", SeverityInfo, "What the agent's allow_out and deny_out deny is told and let pass.",
			"Set EGRESS_MODE to enforce and restart the server when the lists are right."})
	}
	var last struct {
		Host, Rule, Reason string
		Observed           bool
	}
	var hosts []string
	for _, e := range d.Events {
		var denied = last
		if e.Type != "egress.denied" || json.Unmarshal(e.Data, &denied) != nil || denied.Observed {
			continue
		}
		last = denied
		if !slices.Contains(hosts, denied.Host) {
			hosts = append(hosts, denied.Host)
		}
	}
	if len(hosts) > 0 {
		found = append(found, Issue{"egress_denied", SeverityInfo,
			fmt.Sprintf("The sandbox was kept from %d hosts, the last one %s: %s (rule %s).", len(hosts), last.Host, last.Reason, last.Rule),
			"If the session needs it, change the agent's allow_out and deny_out, or the operator's EGRESS_ALLOW_CIDRS, and open another session."})
	}
	return found
}

// endIssues are about a session that has ended or sleeps.
func (d *Diagnosis) endIssues() (found []Issue) {
	s, reason := &d.Session, "unknown"
	if s.FailureReason != nil {
		reason = *s.FailureReason
	}
	switch {
	case s.Status == Failed:
		found = append(found, Issue{"session_failed", SeverityError, "The last attempt never became ready: " + reason + ".",
			"Remove the cause and restart the session."})
	case s.Status == Dead && s.ExpiredAt == nil && !slices.Contains(endedOnPurpose, reason):
		found = append(found, Issue{"sandbox_lost", SeverityError, "The session ended though nobody asked for it: " + reason + ".",
			"Restart the session; the conversation and the workspace are kept."})
	}
	if s.Desired == wantSuspended && s.FailureReason != nil {
		found = append(found, Issue{"wake_failed", SeverityError, "The session could not be woken: " + reason + ".",
			"Remove the cause and send a message."})
	}
	if s.ExpiredAt != nil {
		found = append(found, Issue{"session_expired", SeverityInfo, "Workspace and settings of the session are not kept any more.",
			"Open another session, or restart this one in a fresh workspace if it was opened without env_vars."})
	}
	return found
}

// sandboxIssues are about the sandbox of a live session.
func (d *Diagnosis) sandboxIssues(o *Options) (found []Issue) {
	s := &d.Session
	if !hasPlace(s) {
		return nil
	}
	slow := slowStart
	if half := o.StartTimeout / 2; half > 0 {
		slow = min(slow, half)
	}
	if since := d.At.Sub(s.AttemptStartedAt); starting(s) && since > slow {
		found = append(found, Issue{"start_slow", SeverityWarning, "The session has been starting for " + since.Round(time.Second).String() + where(*s) + ".",
			"Look at phase and logs; it fails by itself after " + o.StartTimeout.String() + "."})
	}
	if box := d.Sandbox; box != nil && (box.State == sandbox.Exited || box.State == SandboxMissing && s.SandboxState == sandboxRunning) {
		return append(found, Issue{"sandbox_lost", SeverityError, "The sandbox does not run: " + d.notRunning() + ".",
			"The session ends by itself within seconds; restart it then."})
	}
	switch p := d.Probe; {
	case p == nil || d.Sandbox == nil || d.Sandbox.State != sandbox.Running:
	case p.Err != "":
		found = append(found, Issue{"sandbox_not_answering", SeverityError, "The sandbox runs and does not answer: " + p.Err + ".",
			"Restart the session if this does not change within two minutes."})
	case p.State == "failed" || p.State == "stopping" || s.SandboxState == sandboxRunning && p.State != "ready":
		found = append(found, Issue{"harness_not_ready", SeverityError, "The sandbox answers and its harness is not ready: its state is " + p.State + ".",
			"Look at the logs; restart the session if this does not change within two minutes."})
	}
	return found
}

// remedies say what to do about what ended a sandbox or keeps it from starting.
var remedies = map[sandbox.Cause]string{
	sandbox.CauseImagePull:     "Check that the image exists, that its registry can be reached from the node, and that the pull secrets are right.",
	sandbox.CauseImageName:     "Correct the name of the image in the server's settings.",
	sandbox.CauseUnschedulable: "Add nodes, free some room, or ask for less in SANDBOX_POD_TEMPLATE; the attempt goes on when a node can take it.",
	sandbox.CauseNotAdmitted:   "Look at the node; restart the session, so that another node may take it.",
	sandbox.CauseCannotStart:   "Look at the containers' messages: a setting, a secret or a file of the image is missing.",
	sandbox.CauseInitFailed:    "Look at the container's message and at the platform's image.",
	sandbox.CauseOutOfMemory:   "Raise the memory limit in SANDBOX_POD_TEMPLATE, or let the agent do less at once, then restart the session.",
	sandbox.CauseEvicted:       "Restart the session; if it comes again, ask for more memory and disk in SANDBOX_POD_TEMPLATE.",
	sandbox.CausePreempted:     "Give sandboxes a priority class or the cluster more room, then restart the session.",
	sandbox.CauseNodeLost:      "Restart the session; it comes to another node.",
	sandbox.CauseNodeShutdown:  "Restart the session; it comes to another node.",
	sandbox.CauseDeleted:       "Restart the session, and find out who deletes pods of the namespace.",
	sandbox.CauseCrashed:       "Look at the logs, then restart the session.",
}

// causeIssues tell what the runtime says is the cause, of the sandbox that there is.
func (d *Diagnosis) causeIssues() []Issue {
	box := d.Sandbox
	if box == nil || box.Cause == "" {
		return nil
	}
	severity, said := SeverityError, box.Reason
	if box.State != sandbox.Exited {
		severity, said = SeverityWarning, box.Detail
	}
	remedy := remedies[box.Cause]
	if remedy == "" {
		remedy = "Restart the session."
	}
	return []Issue{{string(box.Cause), severity, "The runtime says of the sandbox: " + said + ".", remedy}}
}

// turnIssues are about the latest turns.
func (d *Diagnosis) turnIssues() (found []Issue) {
	count := func(names ...string) (n int, last string) {
		for _, t := range d.turns {
			if t.ErrorName != nil && slices.Contains(names, *t.ErrorName) {
				n++
				last = text(t.ErrorMessage)
			}
		}
		return n, last
	}
	if n, last := count("APIError", "ProviderAuthError"); n > 0 {
		found = append(found, Issue{"gateway_errors", SeverityWarning,
			fmt.Sprintf("%d of the last %d turns failed at the model gateway, the last one so: %s.", n, len(d.turns), strings.TrimSuffix(last, ".")),
			"Check that the gateway is up, that its key is valid and that it knows the agent's model."})
	}
	if n, last := count(TurnInterrupted); n > 0 {
		found = append(found, Issue{"turns_interrupted", SeverityWarning,
			fmt.Sprintf("%d of the last %d turns were cut off, the last one so: %s.", n, len(d.turns), strings.TrimSuffix(last, ".")),
			"Send the message again; look at the logs for why the sandbox or its harness ended."})
	}
	i := slices.IndexFunc(d.turns, func(t store.Turn) bool { return t.Status == Handed })
	if i >= 0 && d.turns[i].HandedAt != nil && d.At.Sub(*d.turns[i].HandedAt) > slowTurn {
		found = append(found, Issue{"turn_slow", SeverityWarning,
			"The running turn has taken " + d.At.Sub(*d.turns[i].HandedAt).Round(time.Second).String() + ".",
			"Follow its events to see what it does; abort it if it is stuck."})
	}
	return found
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
