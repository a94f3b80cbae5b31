package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const libraryPath = "/api/v1/skills"

// ask sends a request that must succeed with this status and returns the answer.
func ask[T any](t *testing.T, s *server, method, path, body string, status int, headers ...string) (answer T) {
	t.Helper()
	resp, b, _ := s.call(t, method, path, body, headers...)
	if resp.StatusCode != status {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	if status != http.StatusNoContent {
		if err := json.Unmarshal(b, &answer); err != nil {
			t.Fatal(err)
		}
	}
	return answer
}

func (s *server) newSkill(t *testing.T, name, content string) client.Skill {
	t.Helper()
	body, err := json.Marshal(map[string]string{"name": name, "content": content})
	if err != nil {
		t.Fatal(err)
	}
	return ask[client.Skill](t, s, http.MethodPost, libraryPath, string(body), 201)
}

func TestASkillIsCreatedReadChangedAndDeleted(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		created := ask[client.Skill](t, s, http.MethodPost, libraryPath, `{"name":"Ünï","content":"  c\n"}`, 201)
		if created.Version != 1 || created.Name != "Ünï" || created.Content != "  c\n" || !created.Description.IsNull() || created.CreatedAt != created.UpdatedAt {
			t.Fatalf("%+v", created)
		}
		path := libraryPath + "/" + created.ID
		resp, body, _ := s.call(t, http.MethodGet, path, "")
		if resp.Header.Get("ETag") != `"1"` || !strings.Contains(string(body), created.ID) {
			t.Errorf("ETag %s of %s", resp.Header.Get("ETag"), body)
		}
		changed := ask[client.Skill](t, s, http.MethodPatch, path, `{"description":"d","content":"new"}`, 200, "If-Match", `"1"`)
		if changed.Version != 2 || changed.Name != "Ünï" || changed.Description.MustGet() != "d" || changed.Content != "new" || changed.CreatedAt != created.CreatedAt {
			t.Errorf("%+v", changed)
		}
		for _, same := range []string{`{}`, `{"description":"d"}`, `{"name":"Ünï","content":"new","description":"d"}`} {
			if got := ask[client.Skill](t, s, http.MethodPatch, path, same, 200); !reflect.DeepEqual(got, changed) {
				t.Errorf("%s: %+v", same, got)
			}
		}
		if got := ask[client.Skill](t, s, http.MethodPatch, path, `{"description":null}`, 200); got.Version != 3 || !got.Description.IsNull() {
			t.Errorf("%+v", got)
		}
		for _, method := range []string{http.MethodPatch, http.MethodDelete} {
			sent := map[string]string{http.MethodPatch: `{"name":"x"}`}[method]
			resp, _, e := s.call(t, method, path, sent, "If-Match", `"2"`)
			refused(t, resp, e, 412, "precondition_failed")
			resp, _, e = s.call(t, method, path, sent, "If-Match", "2")
			refused(t, resp, e, 400, "invalid_request", "header/If-Match")
		}
		ask[any](t, s, http.MethodDelete, path, "", 204, "If-Match", `"1", "3"`)
		for _, c := range [][2]string{{http.MethodGet, ""}, {http.MethodPatch, "{}"}, {http.MethodDelete, ""}} {
			resp, _, e := s.call(t, c[0], path, c[1])
			refused(t, resp, e, 404, "not_found")
			if e.Error != "skill '"+created.ID+"' not found" {
				t.Errorf("error %q", e.Error)
			}
		}
		resp, _, e := s.call(t, http.MethodGet, path+"/versions", "")
		refused(t, resp, e, 404, "not_found")
	})
}

func TestSkillsAndTheirVersionsAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		for i := range 5 {
			s.newSkill(t, fmt.Sprint(i), "c")
		}
		last := s.newSkill(t, "1", "c")
		ask[any](t, s, http.MethodDelete, libraryPath+"/"+s.newSkill(t, "deleted", "c").ID, "", 204)
		for i := 2; i <= 6; i++ {
			ask[client.Skill](t, s, http.MethodPatch, libraryPath+"/"+last.ID, fmt.Sprintf(`{"name":"%d"}`, i), 200)
		}
		for path, want := range map[string]string{libraryPath: "643210", libraryPath + "/" + last.ID + "/versions": "654321"} {
			var got string
			for query := "?limit=4"; query != ""; {
				page := ask[client.SkillList](t, s, http.MethodGet, path+query, "", 200)
				if page.Limit != 4 || page.Total.MustGet() != 6 {
					t.Errorf("%s: limit %d, total %v", path, page.Limit, page.Total)
				}
				for _, sk := range page.Data {
					got += sk.Name
				}
				query = ""
				if !page.NextCursor.IsNull() {
					query = "?limit=4&cursor=" + page.NextCursor.MustGet()
				}
			}
			offset := ask[client.SkillList](t, s, http.MethodGet, path+"?offset=5&total=false", "", 200)
			if got != want || len(offset.Data) != 1 || offset.Data[0].Name != want[5:] || !offset.Total.IsNull() {
				t.Errorf("%s: %s, at offset 5 %+v", path, got, offset)
			}
		}
		resp, _, e := s.call(t, http.MethodGet, libraryPath+"?cursor=x&limit=a", "")
		refused(t, resp, e, 400, "invalid_request", "query/limit")
		resp, _, e = s.call(t, http.MethodGet, libraryPath+"?cursor=x", "")
		refused(t, resp, e, 400, "invalid_request", "query/cursor")
	})
}

func TestListsOfSkillsHoldTheirContentsWhole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		small, large := s.newSkill(t, "small", "c"), s.newSkill(t, "large", strings.Repeat("é", 262_144))
		ask[client.Skill](t, s, http.MethodPatch, libraryPath+"/"+large.ID, `{"name":"renamed"}`, 200)
		page := ask[client.SkillList](t, s, http.MethodGet, libraryPath, "", 200)
		versions := ask[client.SkillList](t, s, http.MethodGet, libraryPath+"/"+large.ID+"/versions", "", 200)
		if len(page.Data) != 2 || page.Data[0].Content != large.Content || page.Data[1].Content != small.Content {
			t.Errorf("the library holds %d skills, not as they were written", len(page.Data))
		}
		if len(versions.Data) != 2 || versions.Data[0].Content != large.Content || versions.Data[1].Content != large.Content {
			t.Errorf("the skill has %d versions, not as they were written", len(versions.Data))
		}
	})
}

func TestBadSkillsAreRefusedWithEveryViolation(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sk := s.newSkill(t, "n", "c")
	a := s.newAgent(t, `{"model":"m"}`)
	create, update, attach := libraryPath, libraryPath+"/"+sk.ID, agentsPath+"/"+a.ID+"/skill"
	for _, c := range []struct {
		path, body string
		fields     []string
	}{
		{create, `{}`, []string{"/name", "/content"}},
		{create, `{"name":"","content":"","description":5,"x":1}`, []string{"/name", "/content", "/description", "/x"}},
		{create, `{"name":null,"content":null}`, []string{"/name", "/content"}},
		{create, `{"name":"` + strings.Repeat("é", 65) + `","content":" \n\t "}`, []string{"/name", "/content"}},
		{create, `{"name":"n","content":"c","description":"` + strings.Repeat("é", 1025) + `"}`, []string{"/description"}},
		{create, `{"name":"n","content":"` + strings.Repeat("é", 262145) + `"}`, []string{"/content"}},
		{create, `{"name":"n","content":"a\n<!-- skill:` + sk.ID + ` -->\nb"}`, []string{"/content"}},
		{create, `{"name":"n","content":"  <!-- skill:00000000-0000-7000-8000-000000000000 --> \r\nb"}`, []string{"/content"}},
		{update, `{"name":null,"content":null,"version":2}`, []string{"/name", "/content", "/version"}},
		{update, `{"content":"  "}`, []string{"/content"}},
		{update, `{"content":"<!-- skill:x -->"}`, []string{"/content"}},
		{attach, `{}`, []string{""}},
		{attach, `{"skill_id":null,"content":null}`, []string{""}},
		{attach, `{"skill_id":"` + sk.ID + `","content":"c"}`, []string{""}},
		{attach, `{"skill_id":"` + sk.ID + `","name":"n","description":"d","save_to_library":false}`, []string{"/name", "/description", "/save_to_library"}},
		{attach, `{"content":" ","name":"","save_to_library":"no"}`, []string{"/content", "/name", "/save_to_library"}},
		{attach, `{"content":"x\n<!-- skill:` + sk.ID + ` -->"}`, []string{"/content"}},
	} {
		method := http.MethodPost
		if c.path == update {
			method = http.MethodPatch
		}
		resp, _, e := s.call(t, method, c.path, c.body)
		refused(t, resp, e, 400, "invalid_request", c.fields...)
	}
	if got := ask[client.SkillList](t, s, http.MethodGet, libraryPath, "", 200); len(got.Data) != 1 || !reflect.DeepEqual(got.Data[0], sk) {
		t.Errorf("%+v", got)
	}
	if got := ask[client.Agent](t, s, http.MethodGet, agentsPath+"/"+a.ID, "", 200); got.Version != 1 {
		t.Errorf("%+v", got)
	}
	longest := strings.Repeat("é", 262144)
	if got := s.newSkill(t, strings.Repeat("é", 64), longest); got.Content != longest {
		t.Error("the longest content is not kept")
	}
}

func TestIllFormedSkillIDsAreNotFound(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sk := s.newSkill(t, "n", "c")
		a := s.newAgent(t, `{"model":"m"}`)
		for _, id := range []string{"x", "%00", "%2F", "'%20OR%201=1--", strings.ToUpper(sk.ID), sk.ID[:35] + "x"} {
			for _, c := range [][2]string{{http.MethodGet, ""}, {http.MethodPatch, "{}"}, {http.MethodDelete, ""}} {
				resp, _, e := s.call(t, c[0], libraryPath+"/"+id, c[1])
				refused(t, resp, e, 404, "not_found")
			}
			resp, _, e := s.call(t, http.MethodGet, libraryPath+"/"+id+"/versions", "")
			refused(t, resp, e, 404, "not_found")
		}
		for _, id := range []string{"", "x", strings.ToUpper(sk.ID)} {
			resp, _, e := s.call(t, http.MethodPost, agentsPath+"/"+a.ID+"/skill", `{"skill_id":"`+id+`"}`)
			refused(t, resp, e, 404, "not_found")
		}
		for _, agent := range []string{"x", sk.ID} {
			resp, _, e := s.call(t, http.MethodPost, agentsPath+"/"+agent+"/skill", `{"skill_id":"`+sk.ID+`"}`)
			refused(t, resp, e, 404, "not_found")
			resp, _, e = s.call(t, http.MethodPost, agentsPath+"/"+agent+"/skill", `{"content":"c"}`)
			refused(t, resp, e, 404, "not_found")
			resp, _, e = s.call(t, http.MethodDelete, agentsPath+"/"+agent+"/skill", "")
			refused(t, resp, e, 404, "not_found")
			if e.Error != "agent '"+agent+"' not found" {
				t.Errorf("error %q", e.Error)
			}
		}
		if list := ask[client.SkillList](t, s, http.MethodGet, libraryPath, "", 200); list.Total.MustGet() != 1 {
			t.Errorf("a skill was created for an agent that does not exist: %+v", list)
		}
	})
}

func TestChangesOfASkillAtOnceAreNotLost(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sk := s.newSkill(t, "n", "c")
		var wg sync.WaitGroup
		won := make(chan string, 8)
		for i := range 8 {
			wg.Go(func() {
				name := fmt.Sprint(i)
				resp, _, _ := s.call(t, http.MethodPatch, libraryPath+"/"+sk.ID, `{"name":"`+name+`"}`, "If-Match", `"1"`)
				if resp.StatusCode == 200 {
					won <- name
				} else if resp.StatusCode != 412 {
					t.Errorf("status %d", resp.StatusCode)
				}
			})
		}
		wg.Wait()
		got := ask[client.Skill](t, s, http.MethodGet, libraryPath+"/"+sk.ID, "", 200)
		if len(won) != 1 || got.Name != <-won || got.Version != 2 {
			t.Errorf("%d won, %+v", len(won), got)
		}
	})
}
