// Package guide holds the guide for those who use and run LAP, in Markdown, and renders it for browsers when it is first asked
// for. It knows nothing of the server; tests compare what it says with the code.
package guide

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"strings"
	"sync"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// Path is where the pages are served.
const Path = "/docs/guide"

//go:embed *.md style.css page.html
var files embed.FS

// order is that of the navigation. The first page is at Path itself.
var order = []string{
	"index", "quickstart", "concepts", "harnesses", "configuration", "deployment", "security", "operations", "errors", "clients", "migration",
}

// File is one file of the guide as it is served. It must not be changed.
type File struct {
	ContentType string
	Body        []byte
}

// Get returns a page by its name, the first one if that is empty, or the style sheet, style.css; nil if there is no such file.
func Get(name string) (*File, error) {
	all, err := rendered()
	if err != nil {
		return nil, err
	}
	return all[name], nil
}

var rendered = sync.OnceValues(render)

// heading is one that the navigation shows.
type heading struct{ ID, Text string }

type page struct {
	Name, URL, Title string
	Sections         []heading
	Body             template.HTML
	Current          bool
}

func render() (map[string]*File, error) {
	style, err := files.ReadFile("style.css")
	if err != nil {
		return nil, err
	}
	layout, err := template.ParseFS(files, "page.html")
	if err != nil {
		return nil, err
	}
	pages := make([]page, len(order))
	for i, name := range order {
		if pages[i], err = convert(name); err != nil {
			return nil, fmt.Errorf("render %s.md: %w", name, err)
		}
	}
	all := map[string]*File{"style.css": {ContentType: "text/css; charset=utf-8", Body: style}}
	for i, p := range pages {
		var b bytes.Buffer
		pages[i].Current = true
		view := struct {
			page
			Pages          []page
			Previous, Next *page
		}{page: p, Pages: pages}
		if i > 0 {
			view.Previous = &pages[i-1]
		}
		if i < len(pages)-1 {
			view.Next = &pages[i+1]
		}
		if err := layout.Execute(&b, view); err != nil {
			return nil, fmt.Errorf("render %s.md: %w", p.Name, err)
		}
		pages[i].Current = false
		all[strings.TrimPrefix(strings.TrimPrefix(p.URL, Path), "/")] = &File{ContentType: "text/html; charset=utf-8", Body: b.Bytes()}
	}
	return all, nil
}

func convert(name string) (page, error) {
	source, err := files.ReadFile(name + ".md")
	if err != nil {
		return page{}, err
	}
	md := goldmark.New(goldmark.WithExtensions(extension.Table), goldmark.WithParserOptions(
		parser.WithAutoHeadingID(), parser.WithASTTransformers(util.Prioritized(links{}, 500))))
	doc := md.Parser().Parse(text.NewReader(source))
	p := page{Name: name, URL: target(name + ".md")}
	for n := doc.FirstChild(); n != nil; n = n.NextSibling() {
		h, ok := n.(*ast.Heading)
		if !ok {
			continue
		}
		title := words(h, source)
		switch h.Level {
		case 1:
			p.Title = title
		case 2:
			p.Sections = append(p.Sections, heading{ID: idOf(h), Text: title})
		}
		if h.Level > 1 {
			anchor := ast.NewLink()
			anchor.Destination = []byte("#" + idOf(h))
			anchor.SetAttributeString("class", []byte("anchor"))
			anchor.AppendChild(anchor, ast.NewString([]byte("#")))
			h.AppendChild(h, anchor)
		}
	}
	if p.Title == "" {
		return p, fmt.Errorf("it has no title")
	}
	var b bytes.Buffer
	if err := md.Renderer().Render(&b, source, doc); err != nil {
		return p, err
	}
	// Tables and wide code scroll by themselves on a phone.
	html := strings.NewReplacer("<table>", `<div class="wide"><table>`, "</table>", "</table></div>").Replace(b.String())
	p.Body = template.HTML(html) //nolint:gosec // It is made of our own files, and goldmark leaves out what is HTML in them.
	return p, nil
}

func idOf(h *ast.Heading) string {
	id, _ := h.AttributeString("id")
	b, _ := id.([]byte)
	return string(b)
}

// words returns the text of a node without its markup.
func words(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Segment.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// links makes links between the files, which work where the files are read as they are, links between the pages.
type links struct{}

func (links) Transform(doc *ast.Document, _ text.Reader, _ parser.Context) {
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if l, ok := n.(*ast.Link); ok && entering {
			l.Destination = []byte(target(string(l.Destination)))
		}
		return ast.WalkContinue, nil
	})
}

func target(destination string) string {
	name, fragment, _ := strings.Cut(destination, "#")
	base, ok := strings.CutSuffix(name, ".md")
	if !ok || strings.Contains(base, "/") {
		return destination
	}
	url := Path
	if base != order[0] {
		url += "/" + base
	}
	if fragment != "" {
		url += "#" + fragment
	}
	return url
}
