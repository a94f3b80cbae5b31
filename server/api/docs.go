package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/openapi"
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

// docs serves Swagger UI. Its page is rendered once, and its policy lets run exactly the scripts that are in it.
type docs struct {
	page   []byte
	policy string
	assets http.Handler
}

const docsPath = "/docs"

var docsAssets = []string{
	"swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "favicon-16x16.png", "favicon-32x32.png",
}

func newDocs() (*docs, error) {
	ui := v5emb.NewHandlerWithConfig(swgui.Config{
		Title: "LAP API", SwaggerJSON: "/openapi.json", BasePath: docsPath,
		SettingsUI: map[string]string{"persistAuthorization": "true", "displayRequestDuration": "true"},
	})
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, docsPath, nil)
	if err != nil {
		return nil, fmt.Errorf("render docs: %w", err)
	}
	page := &pageWriter{}
	ui.ServeHTTP(page, r)
	body := page.Bytes()
	policy := "default-src 'none'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" +
		"; script-src 'self'" + hashes(body, "script") +
		"; style-src 'self'" + hashes(body, "style") + "; style-src-attr 'unsafe-inline'"
	return &docs{page: body, policy: policy, assets: ui}, nil
}

// hashes lists the inline elements of a page as sources of a content security policy.
func hashes(page []byte, element string) string {
	var list strings.Builder
	for _, m := range regexp.MustCompile(`(?s)<`+element+`>(.*?)</`+element+`>`).FindAllSubmatch(page, -1) {
		sum := sha256.Sum256(m[1])
		list.WriteString(" 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'")
	}
	return list.String()
}

// register adds the pages to the router and to the operations that anybody may call.
func (d *docs) register(e *echo.Echo, table map[string]*operation) {
	for path, h := range map[string]echo.HandlerFunc{docsPath: d.index, docsPath + "/": d.index, docsPath + "/:file": d.asset} {
		e.GET(path, h)
		table[http.MethodGet+" "+path] = &operation{id: "docs", path: path, anonymous: true}
	}
}

func (d *docs) index(c echo.Context) error {
	c.Response().Header().Set("Content-Security-Policy", d.policy)
	return c.HTMLBlob(http.StatusOK, d.page)
}

func (d *docs) asset(c echo.Context) error {
	if !slices.Contains(docsAssets, c.Param("file")) {
		return echo.ErrNotFound
	}
	c.Response().Header().Set("Cache-Control", "public, max-age=3600")
	d.assets.ServeHTTP(c.Response(), c.Request())
	return nil
}

// pageWriter keeps what a handler writes.
type pageWriter struct {
	bytes.Buffer
	header http.Header
}

func (w *pageWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (w *pageWriter) WriteHeader(int) {}
