package guide_test

import (
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/openapi"
	"github.com/litellm-agent-platform/lap/server/config"
	"github.com/litellm-agent-platform/lap/server/guide"
)

var update = flag.Bool("update", false, "write the table of variables anew")

var (
	anchors = regexp.MustCompile(` id="([^"]+)"`)
	targets = regexp.MustCompile(` href="([^"]+)"`)
)

// pages returns all pages by their URLs.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".md")
		if !ok {
			continue
		}
		url := guide.Path + "/" + name
		if name == "index" {
			name, url = "", guide.Path
		}
		page, err := guide.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if page == nil {
			t.Errorf("%s is not served", f.Name())
			continue
		}
		all[url] = string(page.Body)
	}
	return all
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(openapi.YAML)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"/docs": true, "/docs/guide/style.css": true, "/docs/favicon-32x32.png": true}
	for path, item := range doc.Paths.Map() {
		known[path] = item.Get != nil
		for _, o := range item.Operations() {
			for _, tag := range o.Tags {
				known["/docs#/"+tag] = true
				known["/docs#/"+tag+"/"+o.OperationID] = true
			}
		}
	}
	all := pages(t)
	for url, page := range all {
		known[url] = true
		for _, m := range anchors.FindAllStringSubmatch(page, -1) {
			known[url+"#"+m[1]] = true
		}
	}
	for url, page := range all {
		for _, m := range targets.FindAllStringSubmatch(page, -1) {
			target := m[1]
			if strings.HasPrefix(target, "#") {
				target = url + target
			}
			if !known[target] {
				t.Errorf("%s links to %s, which does not exist", url, m[1])
			}
		}
		if strings.Contains(page, "<!-- raw HTML omitted -->") {
			t.Errorf("%s has HTML in it, which is left out", url)
		}
	}
	if len(all) < 11 {
		t.Errorf("%d pages", len(all))
	}
}

// TestEveryPageIsReachable makes sure that the navigation has every page, and each page says which one it is.
func TestEveryPageIsReachable(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for url, page := range all {
		if n := strings.Count(page, "<h1"); n != 1 {
			t.Errorf("%s has %d titles", url, n)
		}
		if !strings.Contains(page, `<a href="`+url+`" aria-current="page"`) {
			t.Errorf("%s is not marked where it is listed", url)
		}
		for other := range all {
			if !strings.Contains(page, `<a href="`+other+`"`) {
				t.Errorf("%s does not list %s", url, other)
			}
		}
	}
	if page, err := guide.Get("none"); page != nil || err != nil {
		t.Errorf("a page that does not exist: %v %v", page, err)
	}
}

func TestTheTableOfVariablesIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	const path, head = "configuration.md", "| Variable | Default | Meaning |\n|---|---|---|\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), head)
	if !found {
		t.Fatal("there is no table")
	}
	table, after, _ := strings.Cut(rest, "\n\n")
	var want []string
	for _, f := range config.Fields() {
		value := ""
		if f.Default != "" {
			value = "`" + f.Default + "`"
		}
		want = append(want, "| `"+f.Name+"` | "+value+" | "+strings.ReplaceAll(f.Description, "|", `\|`)+" |")
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+head+strings.Join(want, "\n")+"\n\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	rows := strings.Split(table, "\n")
	for i := range max(len(rows), len(want)) {
		row, should := "", ""
		if i < len(rows) {
			row = rows[i]
		}
		if i < len(want) {
			should = want[i]
		}
		if row != should {
			t.Errorf("row %d is\n%s\nand should be\n%s\n(go test ./server/guide -run Variables -update)", i+1, row, should)
		}
	}
}

func TestTheListOfVariablesOfLapEgressIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "## Variables of lap egress\n")
	section, _, _ := strings.Cut(rest, "\n## ")
	fields := config.EgressFields()
	if n := strings.Count(section, "\n- `"); n != len(fields) {
		t.Errorf("%d variables are listed, there are %d", n, len(fields))
	}
	for _, f := range fields {
		value := ""
		if f.Default != "" {
			value = " (`" + f.Default + "`)"
		}
		if want := "- `" + f.Name + "`" + value + ": " + f.Description + "\n"; !strings.Contains(section, want) {
			t.Errorf("the list lacks\n%s", want)
		}
	}
}

// TestVariablesThatTheGuideNamesExist finds misspelt ones and those that are gone.
func TestVariablesThatTheGuideNamesExist(t *testing.T) {
	t.Parallel()
	var known []string
	for _, f := range slices.Concat(config.Fields(), config.EgressFields()) {
		known = append(known, f.Name)
	}
	// Of the client commands, of sandboxes, of git, and of the migration's page.
	known = append(known, "LAP_URL", "LAP_KEY", "GITHUB_TOKEN", "GH_TOKEN", "AGENT_PROMPT", "AGENT_REQUIREMENTS", "REPO_URL", "BRANCH",
		"LITELLM_DEFAULT_MODEL", "XDG_DATA_HOME", "PIP_INDEX_URL")
	variable := regexp.MustCompile("`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)[`=]")
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".md") {
			continue
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range variable.FindAllStringSubmatch(string(b), -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s names the variable %s, which nothing reads", f.Name(), m[1])
			}
		}
	}
}

// TestTheIssuesOfTheGuideAreThoseOfTheDocument compares the codes of a diagnosis, by the list in the operation's description.
func TestTheIssuesOfTheGuideAreThoseOfTheDocument(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(openapi.YAML)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([a-z0-9_]+)`")
	codes := func(lists [][]string) (all []string) {
		for _, list := range lists {
			for _, m := range code.FindAllStringSubmatch(list[1], -1) {
				all = append(all, m[1])
			}
		}
		slices.Sort(all)
		return all
	}
	var description string
	for _, item := range doc.Paths.Map() {
		if item.Get != nil && item.Get.OperationID == "diagnoseSession" {
			description = item.Get.Description
		}
	}
	want := codes(regexp.MustCompile("(?m)^- (`[^:]*):").FindAllStringSubmatch(description, -1))
	_, table, _ := strings.Cut(string(page), "| Code | Meaning | What to do |")
	table, _, _ = strings.Cut(table, "\n\n")
	got := codes(regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(table, -1))
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("the guide has\n%q\nthe document\n%q", got, want)
	}
}

// TestTheMetricsOfTheGuideAreThoseOfTheCode compares names.
func TestTheMetricsOfTheGuideAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	metric := regexp.MustCompile(`"(lap_[a-z_]+)"`)
	var want []string
	for _, path := range []string{"../api/metrics.go", "../egress.go"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metric.FindAllSubmatch(b, -1) {
			want = append(want, string(m[1]))
		}
	}
	page, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(lap_[a-z_]+)` ").FindAllSubmatch(page, -1) {
		got = append(got, string(m[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("the guide has\n%q\nthe code\n%q", got, want)
	}
}
