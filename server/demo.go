package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/config"
)

// demonstrate runs the main job from nothing, through the public API only: a server, an agent, a session, a conversation.
func demonstrate(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	once := flags.Bool("once", false, "end after the conversation")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := demoConfig(environ)
	if err != nil {
		return err
	}
	var logs bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logs, nil))
	p, err := start(ctx, cfg, platformOptions{demo: true, stopSandboxes: true}, log)
	if err != nil {
		return err
	}
	d := &demoRun{out: stdout, begun: time.Now(), url: p.url, key: cfg.MasterKey.Reveal()}
	d.say("server is up at %s, data in %s", p.url, cfg.DataDir)
	err = d.converse(ctx)
	if err == nil && !*once {
		d.invite()
		select {
		case <-ctx.Done():
		case err = <-p.failed:
		}
		d.say("stopping the server and its sandboxes")
	}
	if stopErr := p.stop(); err == nil {
		err = stopErr
	}
	if err != nil && ctx.Err() == nil {
		path := filepath.Join(cfg.DataDir, "demo.log")
		if os.WriteFile(path, logs.Bytes(), 0o600) == nil {
			err = fmt.Errorf("%w (the server's log is in %s)", err, path)
		}
	}
	return err
}

// demoConfig is the usual configuration with a data directory of its own, so that a demo never touches real data.
func demoConfig(environ []string) (config.Config, error) {
	set := func(name string) bool {
		return slices.ContainsFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	}
	environ = slices.Clone(environ)
	environ = slices.DeleteFunc(environ, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"DATABASE_URL", "LITELLM_API_BASE", "LITELLM_API_KEY"}, name)
	})
	if !set("METRICS_ADDR") {
		environ = append(environ, "METRICS_ADDR=off")
	}
	if !set("LISTEN_ADDR") && busy("127.0.0.1:3000") {
		environ = append(environ, "LISTEN_ADDR=127.0.0.1:0")
	}
	cfg, err := config.Load(environ)
	if err != nil {
		return cfg, err
	}
	if !set("DATA_DIR") {
		cfg.DataDir = filepath.Join(cfg.DataDir, "demo")
	}
	_, err = cfg.EnsureSecrets()
	return cfg, err
}

func busy(addr string) bool {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return true
	}
	return l.Close() != nil
}

type demoRun struct {
	out      io.Writer
	begun    time.Time
	url, key string
	api      *client.API
}

func (d *demoRun) say(format string, args ...any) {
	fmt.Fprintf(d.out, "[%6.1fs] %s\n", time.Since(d.begun).Seconds(), fmt.Sprintf(format, args...))
}

var demoMessages = []string{
	"Hello! Who answers here?",
	"RUN: echo \"hello from $(uname -s), in $(pwd)\" && cat ~/notes.md",
}

func (d *demoRun) converse(ctx context.Context) error {
	var err error
	if d.api, err = client.New(client.Options{URL: d.url, Key: d.key}); err != nil {
		return err
	}
	agent, err := d.api.CreateAgentWithResponse(ctx, nil, client.AgentCreate{
		Model: "demo/echo", Name: client.Value("demo"),
		Prompt: client.Value("You are a helpful coding agent."),
		SandboxFiles: client.Value([]client.SandboxFileCreate{
			{Name: "notes", SandboxPath: "~/notes.md", Content: []byte("This file came with the agent.\n")},
		}),
	})
	if err != nil {
		return fmt.Errorf("create agent: %w", err)
	}
	d.say("agent   %s (%s, model %s)", agent.JSON200.ID, agent.JSON200.HarnessID, agent.JSON200.Model)
	sess, err := d.api.CreateSessionWithResponse(ctx, agent.JSON200.ID, nil, client.SessionCreate{Title: client.Value("demo")})
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	id := sess.JSON200.ID
	d.say("session %s", id)
	if err := d.awaitReady(ctx, id); err != nil {
		return err
	}
	for _, text := range demoMessages {
		if err := d.message(ctx, id, text); err != nil {
			return err
		}
	}
	return nil
}

// awaitReady tells each phase as the event stream brings it.
func (d *demoRun) awaitReady(ctx context.Context, id string) error {
	for e, err := range d.api.Events(ctx, id, 0) {
		if err != nil {
			return fmt.Errorf("follow session: %w", err)
		}
		switch {
		case e.Type == "session.phase" && e.Data["detail"] != nil:
			d.say("  %s: %s", e.Data["phase"], e.Data["detail"])
		case e.Type == "session.phase":
			d.say("  %s", e.Data["phase"])
		case e.Type == "session.status" && e.Data["status"] == "ready":
			return nil
		case e.Type == "session.status" && e.Data["status"] != "creating":
			return fmt.Errorf("session is %s: %v", e.Data["status"], e.Data["failure_reason"])
		}
	}
	return nil
}

func (d *demoRun) message(ctx context.Context, id, text string) error {
	d.say("you:      %s", text)
	res, err := d.api.SendMessageWithResponse(ctx, id, nil, client.Text(text))
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if e, err := res.JSON200.Info.Error.Get(); err == nil {
		return fmt.Errorf("turn ended with %s: %s", e.Name, e.Message)
	}
	for _, part := range res.JSON200.Parts {
		switch part.Type {
		case "text":
			d.say("opencode: %s", *part.Text)
		case "tool":
			d.say("  tool %s %v", *part.Tool, part.Input["command"])
			for line := range strings.Lines(*part.Output) {
				d.say("    | %s", strings.TrimRight(line, "\n"))
			}
		}
	}
	return nil
}

func (d *demoRun) invite() {
	fmt.Fprintf(d.out, `
The server goes on; Ctrl-C ends it and its sandboxes.
  Swagger UI   %[1]s/docs
  API          %[1]s
  master key   %[2]s
  try          curl -H 'Authorization: Bearer %[2]s' %[1]s/api/v1/managed_agents/sessions
`, d.url, d.key)
}
