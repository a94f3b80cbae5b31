package session_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

func ptr[T any](v T) *T { return &v }

func (r *rig) skill(name, content string) store.Skill {
	r.t.Helper()
	sk := store.Skill{Library: true, Name: name, Content: content}
	if err := r.o.Store.CreateSkill(r.t.Context(), &sk); err != nil {
		r.t.Fatal(err)
	}
	return sk
}

// bound is what the session's only sandbox was given once it was ready.
func (r *rig) bound(id string) sandboxd.SessionConfig {
	r.t.Helper()
	r.await(id, session.Ready)
	b := r.rt.only()
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.bound
}

func TestASandboxGetsTheSkillsOfItsAgentAndItsSession(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		one, two, three := r.skill("Résumé", "one"), r.skill("resume", "---\nname: x\n---\ntwo\n"), r.skill("!", "  three\n")
		deleted := "01932c07-a0b1-7c22-9d33-4e5f60718293"
		agent := r.agent(func(a *store.Agent) {
			// The agent has its own text of one, and none of the marker of a skill that it did not record.
			a.Prompt = ptr("Base\n<!-- skill:" + deleted + " -->\n\n<!-- skill:" + one.ID + " -->\nas attached")
			a.Skills = []store.AttachedSkill{{ID: one.ID, Name: "Résumé", Description: ptr("say: \"hi\"")}}
			a.Files = []store.File{{Name: "own", Path: "~/.claude/skills/resume-2/SKILL.md", Content: []byte("own")}}
		})
		refs := []store.SkillRef{{ID: one.ID, Version: 1}, {ID: two.ID, Version: 1}, {ID: three.ID, Version: 1}}
		id := r.open(session.CreateParams{AgentID: agent, Skills: refs})
		check := func() {
			t.Helper()
			cfg := r.bound(id)
			want := "Base\n<!-- skill:" + deleted + " -->\n\n<!-- skill:" + one.ID + " -->\nas attached\n\n<!-- skill:" +
				two.ID + " -->\n---\nname: x\n---\ntwo\n\n<!-- skill:" + three.ID + " -->\nthree"
			if *cfg.Prompt != want || cfg.Env["AGENT_PROMPT"] != want {
				t.Errorf("prompt %q", *cfg.Prompt)
			}
			var files []string
			for _, f := range cfg.Files {
				files = append(files, f.Path+"="+string(f.Content))
			}
			if got, want := strings.Join(files, "|"), strings.Join([]string{
				"~/.claude/skills/resume/SKILL.md=---\nname: \"resume\"\ndescription: \"say: \\\"hi\\\"\"\n---\n\nas attached\n",
				"~/.claude/skills/resume-2/SKILL.md=---\nname: x\n---\ntwo",
				"~/.claude/skills/" + three.ID + "/SKILL.md=---\nname: \"" + three.ID + "\"\ndescription: \"!\"\n---\n\nthree\n",
				"~/.claude/skills/resume-2/SKILL.md=own",
			}, "|"); got != want {
				t.Errorf("files\n%s\nwant\n%s", got, want)
			}
		}
		check()

		// Whatever becomes of the skills, a restart gives the same.
		if _, err := r.o.Store.UpdateSkill(t.Context(), two.ID, func(sk *store.Skill) error { sk.Name, sk.Content = "new", "new"; return nil }); err != nil {
			t.Fatal(err)
		}
		if err := r.o.Store.DeleteSkill(t.Context(), three.ID, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if s := r.await(id, session.Ready); s.Attempt != 2 {
			t.Fatalf("attempt %d", s.Attempt)
		}
		check()
	})
}

func TestAPromptWithoutSkillsOfTheSessionStaysAsItWasWritten(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const prompt = "  Base \n\n"
		cfg := r.bound(r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.Prompt = ptr(prompt) })}))
		if *cfg.Prompt != prompt || cfg.Env["AGENT_PROMPT"] != prompt || len(cfg.Files) != 0 {
			t.Errorf("%q, files %v", *cfg.Prompt, cfg.Files)
		}
	})
}

func TestAnAgentWithoutAPromptGetsTheSkillsOfItsSession(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		sk := r.skill("one", "text")
		cfg := r.bound(r.open(session.CreateParams{Skills: []store.SkillRef{{ID: sk.ID, Version: 1}}}))
		if want := "<!-- skill:" + sk.ID + " -->\ntext"; *cfg.Prompt != want || len(cfg.Files) != 1 {
			t.Errorf("%q, files %v", *cfg.Prompt, cfg.Files)
		}
	})
}

func TestSkillsThatMakeThePromptTooLongOpenNoSession(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		sk := r.skill("one", "é")
		block := len("\n\n<!-- skill: -->\né") - 1 + len(sk.ID)
		for _, tooLong := range []int{0, 1} {
			agent := r.agent(func(a *store.Agent) { a.Prompt = ptr(strings.Repeat("é", 1<<20-block+tooLong)) })
			_, err := r.service.Create(t.Context(), session.CreateParams{
				AgentID: agent, Skills: []store.SkillRef{{ID: sk.ID, Version: 1}}, EnvVars: map[string]string{"A": "b"},
			})
			if (tooLong == 1) != errors.Is(err, session.ErrPrompt) {
				t.Errorf("%d too long: %v", tooLong, err)
			}
		}
		if _, _, settings := r.rt.count(); settings != 1 {
			t.Errorf("%d settings", settings)
		}
	})
}

func TestAProcessStartsWithWhateverPromptItsEnvironmentHas(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const most = 128<<10 - len("AGENT_PROMPT=\x00")
		for length, carried := range map[int]bool{most: true, most + 1: false} {
			id := r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.Prompt = ptr(strings.Repeat("x", length)) })})
			cfg := r.bound(id)
			cmd := exec.CommandContext(t.Context(), "/bin/true")
			for key, value := range cfg.Env {
				cmd.Env = append(cmd.Env, key+"="+value)
			}
			if err := cmd.Run(); err != nil {
				t.Errorf("%d: %v", length, err)
			}
			if got, ok := cfg.Env["AGENT_PROMPT"]; ok != carried || ok && len(got) != length || len(*cfg.Prompt) != length {
				t.Errorf("%d: variable %v of %d", length, ok, len(got))
			}
			if err := r.service.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the sandbox to be gone", func() bool { n, _, _ := r.rt.count(); return n == 0 })
		}
	})
}
