package browser_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
)

// swagger is Swagger UI in a tab.
type swagger struct {
	*tab
	operations map[string]*operation
	paths      map[string]string // ids by the names of path parameters, as the page should fill them in
}

// operation is one of the document, and how often it was executed.
type operation struct {
	method, path, selector string
	*openapi3.Operation
	executed int
}

// step is one press of Execute, and what must be seen then.
type step struct {
	id     string
	fields map[string]string // parameters, by name, that a person fills in
	accept string            // media type of the answer to choose
	body   string            // empty: the example that is there
	status int
	want   []string
}

// checkOperations goes from no key to a conversation, and then through all that is left.
func checkOperations(p *tab, s *server) {
	ui := newSwagger(p)
	ui.visit("/docs")
	ui.until(`document.querySelectorAll('.opblock').length > 0`)
	ui.shoot("overview")

	ui.execute(step{id: "listSessions", status: 401, want: []string{"unauthorized"}})
	ui.authorize(masterKey)
	ui.execute(step{id: "listSessions", status: 200, want: []string{`"data": []`}})
	ui.do("reload", chromedp.Reload())
	ui.until(`document.querySelector('.btn.authorize.locked') !== null`)

	ui.execute(step{id: "createAgent", body: `{"model": "demo/echo", "name": "from Swagger UI"}`, status: 200, want: []string{`"name": "from Swagger UI"`}})
	agent := ui.made("agent_id")
	ui.executeAll(
		step{id: "createSkill", status: 200 + 1, want: []string{`"version": 1`}},
		step{id: "getAgent", fields: map[string]string{"agent_id": agent}, status: 200, want: []string{agent}},
	)
	ui.execute(step{id: "attachSkill", body: fmt.Sprintf(`{"skill_id": %q}`, ui.made("skill_id")), status: 200, want: []string{ui.made("skill_id")}})
	ui.executeAll(
		step{id: "detachSkill", status: 200, want: []string{`"attached_skill_ids": []`}},
		step{id: "createSession", body: "{}", status: 200, want: []string{`"status": "creating"`}},
		step{id: "sendMessage", body: `{"text": "Hello from the page"}`, status: 200, want: []string{"Hello from the page", `"error": null`}},
		step{id: "getTurn", status: 200, want: []string{`"status": "completed"`}},
		step{id: "listMessages", status: 200, want: []string{`"role": "assistant"`, "Hello from the page"}},
		step{id: "streamMessage", body: `{"text": "And as a stream"}`, status: 200, want: []string{"event: turn.queued", "event: turn.completed", "And as a stream"}},
		step{id: "streamEvents", status: 200, want: []string{"event: session.status", "event: turn.completed", "stopped reading after 5 seconds"}},
		step{id: "streamEvents", fields: map[string]string{"follow": "false"}, accept: "application/json", status: 200, want: []string{`"has_more": false`}},
		step{id: "getSandboxLogs", fields: map[string]string{"follow": "true"}, status: 200, want: []string{"sandboxd", "stopped reading after 5 seconds"}},
		step{id: "openTerminal", status: 409, want: []string{"harness_has_no_terminal"}},
		step{id: "getOpenAPIYAML", status: 200, want: []string{"openapi: 3.0.3"}},
		step{id: "getOpenAPIJSON", status: 200, want: []string{`"openapi": "3.0.3"`}},
	)

	// All that no step is about, those that take things away last.
	ids := slices.SortedFunc(maps.Keys(ui.operations), func(a, b string) int {
		return strings.Compare(rank(ui.operations[a])+a, rank(ui.operations[b])+b)
	})
	for _, id := range ids {
		if ui.operations[id].executed == 0 {
			ui.execute(step{id: id})
		}
	}
	log, err := os.ReadFile(s.log)
	if err != nil || !strings.Contains(string(log), "/message_stream") || strings.Contains(string(log), masterKey) {
		p.t.Errorf("the server's log has the key or not the requests: %v", err)
	}
}

func rank(o *operation) string {
	switch {
	case o.method == "DELETE" && strings.Contains(o.path, "agents/"):
		return "3"
	case o.method == "DELETE":
		return "2"
	case o.method == "POST" || o.method == "PATCH":
		return "1"
	}
	return "0"
}

// checkLinks follows links to operations that say what their buttons do, and those from there to the guide.
func checkLinks(p *tab, _ *server) {
	ui := newSwagger(p)
	for _, id := range []string{"streamEvents", "openTerminal"} {
		o := ui.operations[id]
		p.visit("/docs?" + id + "#/" + o.Tags[0] + "/" + id) // the query makes it another page
		p.until(quote(o.selector+".is-open .opblock-description") + ` !== null`)
		p.until(fmt.Sprintf(`Math.abs(document.querySelector(%q).getBoundingClientRect().top) < innerHeight`, o.selector))
		text := eval[string](p, fmt.Sprintf(`document.querySelector(%q).innerText`, o.selector+" .opblock-description"))
		if !strings.HasPrefix(strings.TrimSpace(text), "Try it out") {
			p.t.Errorf("%s does not say what its button does: %.200s", id, text)
		}
		if link := eval[string](p, `location.hash`); link != "#/"+o.Tags[0]+"/"+id {
			p.t.Errorf("the link has become %s", link)
		}
		p.shoot("operation-" + id)
	}
	for _, href := range eval[[]string](p, `[...document.querySelectorAll('body > header a, .opblock-description a')].map((a) => a.href)`) {
		res, err := http.Get(href)
		if err != nil {
			p.t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 {
			p.t.Errorf("link to %s: %s", href, res.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	p.window(390, 844, "light")
	p.shoot("operation-390")
	p.window(1280, 900, "light")
}

func newSwagger(p *tab) *swagger {
	doc, err := gen.GetSpec()
	if err != nil {
		p.t.Fatal(err)
	}
	ui := &swagger{tab: p, operations: map[string]*operation{}, paths: map[string]string{}}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			o.Parameters = append(slices.Clone(item.Parameters), o.Parameters...)
			ui.operations[o.OperationID] = &operation{
				method: method, path: path, Operation: o, selector: "#operations-" + o.Tags[0] + "-" + o.OperationID,
			}
		}
	}
	return ui
}

// authorize gives the key to the dialog.
func (ui *swagger) authorize(key string) {
	ui.t.Helper()
	ui.click(".btn.authorize")
	ui.until(`document.querySelectorAll('.auth-container input').length === 1`)
	ui.fill(".auth-container input", key)
	ui.shoot("authorize")
	ui.click(".auth-btn-wrapper .authorize")
	ui.until(`document.querySelector('.auth-btn-wrapper [aria-label="Remove authorization"]') !== null`)
	if shown := eval[string](ui.tab, `document.body.innerText`); strings.Contains(shown, key) {
		ui.t.Error("the page shows the key")
	}
	ui.click(".btn-done")
}

// made is the id that the page fills in for a parameter of paths.
func (ui *swagger) made(name string) string {
	ui.t.Helper()
	if ui.paths[name] == "" {
		ui.t.Fatalf("nothing has made a %s", name)
	}
	return ui.paths[name]
}

func (ui *swagger) executeAll(steps ...step) {
	ui.t.Helper()
	for _, s := range steps {
		ui.execute(s)
	}
}

// execute presses the buttons of an operation and checks what is shown.
func (ui *swagger) execute(s step) {
	ui.t.Helper()
	o := ui.operations[s.id]
	if o == nil {
		ui.t.Fatalf("the document has no %s", s.id)
	}
	o.executed++
	in := func(selector string) string { return o.selector + " " + selector }
	if !ui.has(o.selector + ".is-open") {
		ui.click(in(".opblock-summary-control"))
		ui.until(quote(in(".try-out, .execute")) + ` !== null`)
	}
	if ui.has(in(".try-out__btn:not(.cancel)")) {
		ui.click(in(".try-out__btn"))
	}
	if ui.has(in(".btn-clear")) {
		ui.click(in(".btn-clear"))
		ui.until(quote(in(".live-responses-table")) + ` === null`)
	}
	for name, value := range s.fields {
		ui.fill(in(fmt.Sprintf(`tr[data-param-name=%q] :is(input, select)`, name)), value)
	}
	if s.body != "" {
		ui.fill(in("textarea.body-param__text"), s.body)
	}
	if s.accept != "" {
		ui.fill(in(".responses-table .content-type"), s.accept)
	}
	path := o.path
	for _, p := range o.Parameters {
		if p.Value.In != openapi3.ParameterInPath {
			continue
		}
		field := in(fmt.Sprintf(`tr[data-param-name=%q] input`, p.Value.Name))
		value, want := eval[string](ui.tab, quote(field)+".value"), ui.paths[p.Value.Name]
		if value == "" && want == "" { // nothing has made one
			value = fmt.Sprint(p.Value.Example)
			want = value
			ui.fill(field, value)
		}
		if value == "" || want != "" && value != want {
			ui.t.Errorf("%s: %s is filled in with %q, want %q", s.id, p.Value.Name, value, want)
		}
		path = strings.Replace(path, "{"+p.Value.Name+"}", value, 1)
	}
	ui.click(in(".execute"))
	shown := in(".live-responses-table tr.response .response-col_status")
	ui.until(quote(shown) + ` !== null`)
	status := eval[string](ui.tab, quote(shown)+`.childNodes[0].textContent`)
	text := eval[string](ui.tab, quote(in(".live-responses-table"))+`.innerText`)
	answered := ui.last(o.method, path)
	if strconv.FormatInt(answered.status, 10) != status {
		ui.t.Errorf("%s %s was answered %+v, and the page shows %s", o.method, path, answered, status)
	}
	if s.status != 0 && status != strconv.Itoa(s.status) || o.Responses.Value(status) == nil || status >= "500" {
		ui.t.Errorf("%s: the page shows %s, want %d:\n%.2000s", s.id, status, s.status, text)
	}
	for _, want := range s.want {
		if !strings.Contains(text, want) {
			ui.t.Errorf("%s: the page does not show %q but\n%.4000s", s.id, want, text)
		}
	}
	command := eval[string](ui.tab, quote(in(".request-snippets, .curl-command"))+`.innerText`)
	if !strings.Contains(command, "curl -X") || strings.Contains(command, masterKey) || status != "401" && o.Security == nil &&
		!strings.Contains(command, `"Authorization: Bearer $MASTER_KEY"`) {
		ui.t.Errorf("%s: the command is %s", s.id, command)
	}
	eval[bool](ui.tab, quote(in(".live-responses-table"))+`.scrollIntoView({ block: 'center', behavior: 'instant' }) === undefined`)
	ui.shoot(fmt.Sprintf("executed-%s-%d", s.id, o.executed))
	ui.remember(o, text)
	ui.click(in(".opblock-summary-control")) // the page gets slow with all of them open
}

// remember keeps the ids that an operation has made, as the page does.
func (ui *swagger) remember(o *operation, shown string) {
	name := map[string]string{"createAgent": "agent_id", "createSkill": "skill_id", "createSession": "session_id", "sendMessage": "turn_id"}[o.OperationID]
	if name == "" {
		return
	}
	key := `"id": "`
	if name == "turn_id" {
		key = `"turn_id": "`
	}
	if _, after, ok := strings.Cut(shown, key); ok {
		ui.paths[name], _, _ = strings.Cut(after, `"`)
	}
}

func quote(selector string) string { return fmt.Sprintf("document.querySelector(%q)", selector) }

func (ui *swagger) has(selector string) bool {
	ui.t.Helper()
	return eval[bool](ui.tab, quote(selector)+" !== null")
}

func (ui *swagger) click(selector string) {
	ui.t.Helper()
	// Once it is where a person could press it, and nothing lies above it.
	ui.until(fmt.Sprintf(`(() => {
		const e = %s;
		if (e === null || e.disabled) return false;
		e.scrollIntoView({ block: 'center', behavior: 'instant' });
		const box = e.getBoundingClientRect();
		const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
		if (top === null || !e.contains(top) && !top.contains(e)) return false;
		e.click();
		return true;
	})()`, quote(selector)))
}

// fill puts a value into a field, or chooses it from a list.
func (ui *swagger) fill(selector, value string) {
	ui.t.Helper()
	ui.until(quote(selector) + ` !== null`)
	if eval[string](ui.tab, quote(selector)+".tagName") != "SELECT" {
		eval[bool](ui.tab, fmt.Sprintf(`(() => { const e = %s; e.focus(); e.select(); return true })()`, quote(selector)))
		command(ui.tab, input.InsertText, input.InsertTextParams{Text: value})
		ui.until(fmt.Sprintf(`%s.value === %q`, quote(selector), value))
		return
	}
	eval[bool](ui.tab, fmt.Sprintf(`(() => {
		const e = %s;
		Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, 'value').set.call(e, %q);
		return e.dispatchEvent(new Event('change', { bubbles: true }));
	})()`, quote(selector), value))
}
