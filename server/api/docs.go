package api

import (
	"context"
	"embed"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui/v5emb"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/openapi"
	"github.com/litellm-agent-platform/lap/server/guide"
)

// description serves the OpenAPI document.
type description struct{ json, yaml document }

func newDescription() (description, error) {
	spec, err := gen.GetSpecJSON()
	if err != nil {
		return description{}, fmt.Errorf("read the embedded OpenAPI document: %w", err)
	}
	return description{
		json: document{contentType: "application/json", body: spec},
		yaml: document{contentType: "application/yaml", body: openapi.YAML},
	}, nil
}

func (d description) GetOpenAPIJSON(context.Context, gen.GetOpenAPIJSONRequestObject) (gen.GetOpenAPIJSONResponseObject, error) {
	return d.json, nil
}

func (d description) GetOpenAPIYAML(context.Context, gen.GetOpenAPIYAMLRequestObject) (gen.GetOpenAPIYAMLResponseObject, error) {
	return d.yaml, nil
}

type document struct {
	contentType string
	body        []byte
}

// VisitGetOpenAPIJSONResponse writes the document.
func (d document) VisitGetOpenAPIJSONResponse(w http.ResponseWriter) error { return d.write(w) }

// VisitGetOpenAPIYAMLResponse writes the document.
func (d document) VisitGetOpenAPIYAMLResponse(w http.ResponseWriter) error { return d.write(w) }

func (d document) write(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", d.contentType)
	_, err := w.Write(d.body)
	return err
}

// docs serves Swagger UI on a page of its own, and the guide beside it. No page has a script or a style within it.
type docs struct{ swagger http.Handler }

const (
	docsPath   = "/docs"
	guidePath  = docsPath + "/guide"
	docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" +
		"; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	guidePolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

//go:embed docs
var docsFiles embed.FS

// docsAssets are the files of the page by their types. Those that Swagger UI does not have are ours.
var docsAssets = map[string]string{
	"swagger-ui.css": "", "swagger-ui-bundle.js": "", "favicon-32x32.png": "",
	"docs.css": "text/css; charset=utf-8", "docs.js": "text/javascript; charset=utf-8",
}

func newDocs() *docs { return &docs{swagger: v5emb.New("", "", docsPath)} }

// register adds the pages to the router and to the operations that anybody may call.
func (d *docs) register(e *echo.Echo, table map[string]*operation) {
	for path, h := range map[string]echo.HandlerFunc{
		docsPath: d.index, docsPath + "/": d.index, docsPath + "/:file": d.asset,
		guidePath: d.page, guidePath + "/": d.page, guidePath + "/:page": d.page,
	} {
		e.GET(path, h)
		table[http.MethodGet+" "+path] = &operation{id: "docs", path: path, anonymous: true}
	}
}

func (d *docs) index(c echo.Context) error {
	c.Response().Header().Set("Content-Security-Policy", docsPolicy)
	return d.own(c, "index.html", "text/html; charset=utf-8")
}

func (d *docs) own(c echo.Context, name, contentType string) error {
	body, err := docsFiles.ReadFile("docs/" + name)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	return c.Blob(http.StatusOK, contentType, body)
}

func (d *docs) asset(c echo.Context) error {
	name := c.Param("file")
	contentType, ok := docsAssets[name]
	switch {
	case !ok:
		return echo.ErrNotFound
	case contentType != "":
		return d.own(c, name, contentType)
	}
	c.Response().Header().Set("Cache-Control", "public, max-age=3600")
	d.swagger.ServeHTTP(c.Response(), c.Request())
	return nil
}

func (d *docs) page(c echo.Context) error {
	file, err := guide.Get(c.Param("page"))
	if err != nil {
		return err
	}
	if file == nil {
		return echo.ErrNotFound
	}
	c.Response().Header().Set("Content-Security-Policy", guidePolicy)
	return c.Blob(http.StatusOK, file.ContentType, file.Body)
}
