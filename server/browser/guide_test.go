package browser_test

import (
	"fmt"
	"strings"
)

// checkGuide looks at every page of the guide on a large light screen and on a small dark one.
func checkGuide(p *tab, _ *server) {
	p.visit("/docs/guide")
	pages := eval[[]string](p, `[...document.querySelectorAll('nav > ol > li > a')].map((a) => a.getAttribute('href'))`)
	if len(pages) < 10 {
		p.t.Errorf("the guide has the pages %q", pages)
	}
	for _, view := range []struct {
		width, height int64
		scheme        string
	}{{1280, 900, "light"}, {390, 844, "dark"}} {
		p.window(view.width, view.height, view.scheme)
		for _, path := range pages {
			p.visit(path)
			if wide := eval[int64](p, `document.documentElement.scrollWidth`); wide > view.width {
				p.t.Errorf("%s is %d wide on a screen of %d", path, wide, view.width)
			}
			// The style sheet is there, and text differs from its ground.
			colors := eval[[]string](p, `(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()`)
			if colors[0] == colors[1] || (colors[1] == "rgb(255, 255, 255)") != (view.scheme == "light") {
				p.t.Errorf("%s has the colours %q when it is to be %s", path, colors, view.scheme)
			}
			p.shoot(fmt.Sprintf("guide%s-%d-%s", strings.ReplaceAll(strings.TrimPrefix(path, "/docs/guide"), "/", "-"), view.width, view.scheme))
		}
	}
	p.window(1280, 900, "light")
}
