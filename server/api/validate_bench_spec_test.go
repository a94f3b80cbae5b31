package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
)

// BenchmarkValidation measures what the check against the document adds to a request of each operation: the parameters with their
// examples and the longest example of a body, read, decoded and checked. "none" is the same without the check.
func BenchmarkValidation(b *testing.B) {
	table, err := operations(rules{schemes: []string{"https"}}.byOperation())
	if err != nil {
		b.Fatal(err)
	}
	doc := readSpec(b)
	e := echo.New()
	nothing := func(echo.Context) error { return nil }
	checked := validate(nil, table, time.Minute)(nothing)
	for _, path := range doc.Paths.InMatchingOrder() {
		for method, o := range doc.Paths.Value(path).Operations() {
			query, header, body := "", http.Header{"Content-Type": {"application/json"}}, ""
			for _, p := range o.Parameters {
				switch {
				case p.Value.Name == "Idempotency-Key", p.Value.Name == "cursor": // those need a database
				case p.Value.In == "header":
					header.Set(p.Value.Name, toText(p.Value.Example))
				case p.Value.In == "query":
					query += "&" + p.Value.Name + "=" + toText(p.Value.Example)
				}
			}
			if o.RequestBody != nil {
				for _, example := range o.RequestBody.Value.Content["application/json"].Examples {
					if text, _ := json.Marshal(example.Value.Value); len(text) > len(body) {
						body = string(text)
					}
				}
			}
			send := func(handle echo.HandlerFunc) func(b *testing.B) {
				return func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						r := httptest.NewRequest(method, strings.NewReplacer("{", "", "}", "").Replace(path)+"?"+strings.TrimPrefix(query, "&"), strings.NewReader(body))
						maps.Copy(r.Header, header)
						c := e.NewContext(r, httptest.NewRecorder())
						c.SetPath(strings.NewReplacer("{", ":", "}", "").Replace(path))
						if err := handle(c); err != nil {
							b.Fatalf("%s: %v", o.OperationID, err)
						}
					}
				}
			}
			b.Run(o.OperationID+"/none", send(nothing))
			b.Run(o.OperationID+"/checked", send(checked))
		}
	}
}

func toText(v any) string {
	if list, ok := v.([]any); ok {
		v = list[0]
	}
	b, _ := json.Marshal(v)
	return strings.Trim(string(b), `"`)
}
