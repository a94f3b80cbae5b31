package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

func block(sk client.Skill) string { return "<!-- skill:" + sk.ID + " -->\n" + sk.Content }

func skillOf(agent client.Agent) string { return agentsPath + "/" + agent.ID + "/skill" }

func (s *server) attach(t *testing.T, a client.Agent, body string) client.SkillAttached {
	t.Helper()
	return ask[client.SkillAttached](t, s, http.MethodPost, skillOf(a), body, 200)
}

func (s *server) attachID(t *testing.T, a client.Agent, sk client.Skill) client.Agent {
	t.Helper()
	return s.attach(t, a, `{"skill_id":"`+sk.ID+`"}`).Agent
}

// has checks an agent's version, prompt and attached skills; an empty prompt is null.
func has(t *testing.T, a client.Agent, version int32, prompt string, attached ...string) {
	t.Helper()
	got := ""
	if !a.Prompt.IsNull() {
		got = a.Prompt.MustGet()
	}
	if a.Version != version || got != prompt || a.Prompt.IsNull() != (prompt == "") || !slices.Equal(a.AttachedSkillIds, attached) {
		t.Errorf("version %d, prompt %q, attached %v\nwant %d, %q, %v", a.Version, got, a.AttachedSkillIds, version, prompt, attached)
	}
}

func TestSkillsAreAttachedAndDetachedAsBlocks(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		one, two := s.newSkill(t, "A", "one"), s.newSkill(t, "B", "two")
		a := s.newAgent(t, `{"model":"m","prompt":"Base \n"}`)
		has(t, s.attachID(t, a, one), 2, "Base\n\n"+block(one), one.ID)
		both := s.attachID(t, a, two)
		has(t, both, 3, "Base\n\n"+block(one)+"\n\n"+block(two), one.ID, two.ID)
		if again := s.attachID(t, a, one); again.Version != 3 || again.UpdatedAt != both.UpdatedAt {
			t.Errorf("attaching twice made version %d", again.Version)
		}
		resp, _, e := s.call(t, http.MethodDelete, skillOf(a), "", "If-Match", `"2"`)
		refused(t, resp, e, 412, "precondition_failed")
		resp, body, _ := s.call(t, http.MethodDelete, skillOf(a)+"?skill_id="+one.ID, "", "If-Match", `"3"`)
		if resp.Header.Get("ETag") != `"4"` {
			t.Errorf("ETag %s of %s", resp.Header.Get("ETag"), body)
		}
		for _, absent := range []string{one.ID, "x", "", "%00"} {
			got := ask[client.SkillDetached](t, s, http.MethodDelete, skillOf(a)+"?skill_id="+absent, "", 200)
			has(t, got.Agent, 4, "Base\n\n"+block(two), two.ID)
		}
		has(t, ask[client.SkillDetached](t, s, http.MethodDelete, skillOf(a), "", 200).Agent, 5, "Base")
		has(t, ask[client.SkillDetached](t, s, http.MethodDelete, skillOf(a), "", 200).Agent, 5, "Base")
	})
}

func TestAnAgentWithoutAPromptHasTheBlockAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		one := s.newSkill(t, "A", "\n one \n")
		a := s.newAgent(t, `{"model":"m"}`)
		has(t, s.attachID(t, a, one), 2, "<!-- skill:"+one.ID+" -->\none", one.ID)
		has(t, ask[client.SkillDetached](t, s, http.MethodDelete, skillOf(a), "", 200).Agent, 3, "")
	})
}

func TestAnInlineSkillJoinsTheLibraryOrLivesInItsAgent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, `{"model":"m","prompt":"P"}`)
		saved := s.attach(t, a, `{"content":"one","name":"N","description":"D"}`)
		if saved.Skill == nil || saved.Skill.Name != "N" || saved.Skill.Description.MustGet() != "D" || saved.Skill.Version != 1 {
			t.Fatalf("%+v", saved.Skill)
		}
		has(t, saved.Agent, 2, "P\n\n"+block(*saved.Skill), saved.Skill.ID)
		if got := ask[client.Skill](t, s, http.MethodGet, libraryPath+"/"+saved.Skill.ID, "", 200); !reflect.DeepEqual(got, *saved.Skill) {
			t.Errorf("%+v", got)
		}
		own := s.attach(t, a, `{"content":"two","save_to_library":false}`)
		if own.Skill != nil || len(own.Agent.AttachedSkillIds) != 2 || !strings.HasSuffix(own.Agent.Prompt.MustGet(), " -->\ntwo") {
			t.Fatalf("%+v", own)
		}
		id := own.Agent.AttachedSkillIds[1]
		if list := ask[client.SkillList](t, s, http.MethodGet, libraryPath, "", 200); list.Total.MustGet() != 1 {
			t.Errorf("%+v", list)
		}
		for _, path := range []string{"", "/versions"} {
			resp, _, e := s.call(t, http.MethodGet, libraryPath+"/"+id+path, "")
			refused(t, resp, e, 404, "not_found")
		}
		// Where it is attached it stays attached; elsewhere it is none.
		if again := s.attach(t, a, `{"skill_id":"`+id+`"}`); again.Agent.Version != 3 {
			t.Errorf("attaching it again made version %d", again.Agent.Version)
		}
		other := s.newAgent(t, `{"model":"m"}`)
		resp, _, e := s.call(t, http.MethodPost, skillOf(other), `{"skill_id":"`+id+`"}`)
		refused(t, resp, e, 404, "not_found")
		if e.Error != "skill '"+id+"' not found" {
			t.Errorf("error %q", e.Error)
		}
		resp, _, e = s.call(t, http.MethodPost, agentsPath, `{"model":"m","skill_ids":["`+id+`"]}`)
		refused(t, resp, e, 404, "not_found")
		resp, _, e = s.call(t, http.MethodPost, agentsPath+"/"+other.ID+"/session", `{"skill_ids":["`+id+`"]}`)
		refused(t, resp, e, 404, "not_found")
		// A prompt that is copied with its marker has it too.
		prompt, _ := json.Marshal(own.Agent.Prompt.MustGet())
		copied := s.newAgent(t, `{"model":"m","prompt":`+string(prompt)+`}`)
		has(t, copied, 1, own.Agent.Prompt.MustGet(), own.Agent.AttachedSkillIds...)

		named := s.attach(t, a, `{"content":"three","name":null,"save_to_library":null}`)
		if !strings.HasPrefix(named.Skill.Name, "Skill 20") || !named.Skill.Description.IsNull() {
			t.Errorf("%+v", named.Skill)
		}
	})
}

func TestSkillsOfANewAgentAreAttachedInOrderOnceOrNotAtAll(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		one, two := s.newSkill(t, "A", "one"), s.newSkill(t, "B", "two")
		a := s.newAgent(t, fmt.Sprintf(`{"model":"m","prompt":"Base","skill_ids":["%s","%s","%s"]}`, two.ID, one.ID, two.ID))
		has(t, a, 1, "Base\n\n"+block(two)+"\n\n"+block(one), two.ID, one.ID)
		resp, _, e := s.call(t, http.MethodPost, agentsPath, fmt.Sprintf(`{"model":"m","skill_ids":["%s","nope"]}`, one.ID))
		refused(t, resp, e, 404, "not_found")
		if e.Error != "skill 'nope' not found" {
			t.Errorf("error %q", e.Error)
		}
		// A prompt that nothing is attached to stays as it was written.
		written := "  \n<!-- skill:" + one.ID + " --> \r\n mine \n\n"
		body, _ := json.Marshal(written)
		has(t, s.newAgent(t, `{"model":"m","prompt":`+string(body)+`}`), 1, written, one.ID)
		has(t, s.newAgent(t, fmt.Sprintf(`{"model":"m","prompt":%s,"skill_ids":["%s"]}`, body, one.ID)), 1, written, one.ID)
		has(t, s.newAgent(t, fmt.Sprintf(`{"model":"m","prompt":%s,"skill_ids":["%s"]}`, body, two.ID)), 1,
			"<!-- skill:"+one.ID+" -->\n mine\n\n"+block(two), one.ID, two.ID)
	})
}

func TestADeletedSkillKeepsItsTextAndCanBeDetached(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		one, two, three := s.newSkill(t, "A", "one"), s.newSkill(t, "B", "two"), s.newSkill(t, "C", "three")
		body := fmt.Sprintf(`{"model":"m","prompt":"Base","skill_ids":["%s","%s"]}`, one.ID, two.ID)
		first, second := s.newAgent(t, body), s.newAgent(t, body)
		ask[client.Skill](t, s, http.MethodPatch, libraryPath+"/"+two.ID, `{"content":"changed"}`, 200)
		ask[any](t, s, http.MethodDelete, libraryPath+"/"+one.ID, "", 204)
		prompt := "Base\n\n" + block(one) + "\n\n" + block(two)
		has(t, ask[client.Agent](t, s, http.MethodGet, agentsPath+"/"+first.ID, "", 200), 1, prompt, one.ID, two.ID)
		got := ask[client.SkillDetached](t, s, http.MethodDelete, skillOf(first)+"?skill_id="+one.ID, "", 200)
		has(t, got.Agent, 2, "Base\n\n"+block(two), two.ID)
		has(t, s.attachID(t, second, two), 1, prompt, one.ID, two.ID)
		// The next time the prompt is written, its marker is plain text.
		has(t, s.attachID(t, second, three), 2, prompt+"\n\n"+block(three), two.ID, three.ID)
		resp, _, e := s.call(t, http.MethodPost, skillOf(second), `{"skill_id":"`+one.ID+`"}`)
		refused(t, resp, e, 404, "not_found")
	})
}

func TestAPromptThatItsSkillsMakeTooLongIsRefused(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sk := s.newSkill(t, "A", strings.Repeat("é", 1000))
		room := 1<<20 - 1000 - len("\n\n<!-- skill: -->\n") - len(sk.ID)
		for extra, ok := range []bool{true, false} {
			body := `{"model":"m","prompt":"` + strings.Repeat("x", room+extra)
			resp, _, e := s.call(t, http.MethodPost, agentsPath, body+`","skill_ids":["`+sk.ID+`"]}`)
			a := s.newAgent(t, body+`"}`)
			for path, field := range map[string]string{`{"skill_id":"` + sk.ID + `"}`: "/skill_id", `{"content":"` + sk.Content + `"}`: "/content"} {
				if !ok {
					resp, _, e := s.call(t, http.MethodPost, skillOf(a), path)
					refused(t, resp, e, 400, "invalid_request", field)
				}
			}
			session, _, se := s.call(t, http.MethodPost, agentsPath+"/"+a.ID+"/session", `{"skill_ids":["`+sk.ID+`"],"env_vars":{"A":"b"}}`)
			if !ok {
				refused(t, resp, e, 400, "invalid_request", "/skill_ids")
				refused(t, session, se, 400, "invalid_request", "/skill_ids")
			} else if resp.StatusCode != 200 || session.StatusCode != 200 {
				t.Errorf("the longest prompt: %d %d", resp.StatusCode, session.StatusCode)
			} else {
				s.attachID(t, a, sk)
			}
		}
		if list := ask[client.SkillList](t, s, http.MethodGet, libraryPath, "", 200); list.Total.MustGet() != 1 {
			t.Errorf("a refused attachment left a skill: %+v", list)
		}
		s.settings.mu.Lock()
		defer s.settings.mu.Unlock()
		if len(s.settings.env) != 1 {
			t.Errorf("a refused session left settings: %v", s.settings.env)
		}
	})
}

func TestSkillsAttachedAtOnceAreAllThere(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, `{"model":"m","prompt":"Base"}`)
		var all []client.Skill
		for i := range 6 {
			all = append(all, s.newSkill(t, fmt.Sprint(i), "c"+fmt.Sprint(i)))
		}
		gone := s.newSkill(t, "gone", "gone")
		var wg sync.WaitGroup
		for i, sk := range all {
			wg.Go(func() { s.attachID(t, a, sk) })
			wg.Go(func() { s.attach(t, a, fmt.Sprintf(`{"content":"new %d"}`, i)) })
			wg.Go(func() {
				resp, b, _ := s.call(t, http.MethodPatch, agentsPath+"/"+a.ID, fmt.Sprintf(`{"name":"%d"}`, i))
				if resp.StatusCode != 200 {
					t.Errorf("rename: %s", b)
				}
			})
		}
		wg.Go(func() { ask[any](t, s, http.MethodDelete, libraryPath+"/"+gone.ID, "", 204) })
		wg.Go(func() {
			resp, _, _ := s.call(t, http.MethodPost, skillOf(a), `{"skill_id":"`+gone.ID+`"}`)
			if resp.StatusCode != 200 && resp.StatusCode != 404 {
				t.Errorf("attaching what is being deleted: %d", resp.StatusCode)
			}
		})
		wg.Wait()
		got := ask[client.Agent](t, s, http.MethodGet, agentsPath+"/"+a.ID, "", 200)
		for i, sk := range all {
			if !slices.Contains(got.AttachedSkillIds, sk.ID) || !strings.Contains(got.Prompt.MustGet(), block(sk)) ||
				!strings.Contains(got.Prompt.MustGet(), fmt.Sprintf(" -->\nnew %d", i)) {
				t.Errorf("%s is lost from %q", sk.ID, got.Prompt.MustGet())
			}
		}
	})
}

func TestAttachedSkillsSurviveAPatchUnlessItTakesThemOut(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		one, two := s.newSkill(t, "A", "one"), s.newSkill(t, "B", "two")
		a := s.newAgent(t, `{"model":"m","prompt":"Base","skill_ids":["`+one.ID+`"]}`)
		patch := func(body string) client.Agent {
			t.Helper()
			return ask[client.Agent](t, s, http.MethodPatch, agentsPath+"/"+a.ID, body, 200)
		}
		has(t, patch(`{"name":"n"}`), 2, "Base\n\n"+block(one), one.ID)
		ask[client.Skill](t, s, http.MethodPatch, libraryPath+"/"+one.ID, `{"name":"later"}`, 200)
		prompt, _ := json.Marshal("Q\n" + block(one) + "\n" + block(two))
		has(t, patch(`{"prompt":`+string(prompt)+`}`), 3, "Q\n"+block(one)+"\n"+block(two), one.ID, two.ID)
		if row, err := s.store.GetAgent(t.Context(), a.ID); err != nil || row.Skills[0].Name != "A" || row.Skills[1].Name != "B" {
			t.Errorf("recorded are %+v, %v", row.Skills, err)
		}
		has(t, patch(`{"prompt":"P\n<!-- skill:`+two.ID+` -->\nmine\n"}`), 4, "P\n<!-- skill:"+two.ID+" -->\nmine\n", two.ID)
		has(t, s.attachID(t, a, one), 5, "P\n\n<!-- skill:"+two.ID+" -->\nmine\n\n"+block(one), two.ID, one.ID)
		ask[any](t, s, http.MethodDelete, libraryPath+"/"+two.ID, "", 204)
		has(t, patch(`{"name":"m"}`), 6, "P\n\n<!-- skill:"+two.ID+" -->\nmine\n\n"+block(one), two.ID, one.ID)
		has(t, patch(`{"prompt":"<!-- skill:`+two.ID+` -->\n<!-- skill:`+one.ID+` -->"}`), 7, "<!-- skill:"+two.ID+" -->\n<!-- skill:"+one.ID+" -->", one.ID)
		has(t, patch(`{"prompt":null}`), 8, "")
	})
}

func TestASessionHasSkillsOfItsOwnOrIsNotCreated(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		one, two := s.newSkill(t, "A", "one"), s.newSkill(t, "B", "two")
		ask[client.Skill](t, s, http.MethodPatch, libraryPath+"/"+two.ID, `{"content":"changed"}`, 200)
		a := s.newAgent(t, `{"model":"m"}`)
		resp, _, e := s.call(t, http.MethodPost, agentsPath+"/"+a.ID+"/session", `{"env_vars":{"A":"b"},"skill_ids":["`+one.ID+`","nope"]}`)
		refused(t, resp, e, 404, "not_found")
		if list := ask[client.SessionList](t, s, http.MethodGet, "/api/v1/managed_agents/sessions", "", 200); e.Error != "skill 'nope' not found" || list.Total.MustGet() != 0 || len(s.settings.env) != 0 {
			t.Errorf("%q left %+v and settings %v", e.Error, list, s.settings.env)
		}
		sess := ask[client.Session](t, s, http.MethodPost, agentsPath+"/"+a.ID+"/session", fmt.Sprintf(`{"skill_ids":["%s","%s","%s"]}`, two.ID, one.ID, two.ID), 200)
		row, err := s.store.GetSession(t.Context(), sess.ID)
		if err != nil || len(row.Skills) != 2 || row.Skills[0].ID != two.ID || row.Skills[0].Version != 2 || row.Skills[1].ID != one.ID {
			t.Errorf("%+v %v", row.Skills, err)
		}
		// The agent has none of them.
		if got := ask[client.Agent](t, s, http.MethodGet, agentsPath+"/"+a.ID, "", 200); got.Version != 1 || len(got.AttachedSkillIds) != 0 {
			t.Errorf("%+v", got)
		}
	})
}
