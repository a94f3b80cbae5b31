package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func inFlight(t *testing.T, r *prometheus.Registry) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "lap_http_requests_in_flight" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("no gauge")
	return 0
}

func TestLabelsOfMetricsAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for i := range 20 {
		s.call(t, http.MethodGet, fmt.Sprintf("%s/%d", agentsPath, i), "")
		s.call(t, http.MethodGet, fmt.Sprintf("/nothing/%d", i), "")
		s.call(t, http.MethodGet, fmt.Sprintf("/docs/%d", i), "")
		s.call(t, fmt.Sprintf("METHOD%d", i), agentsPath, "")
	}
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "lap_http_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetValue() + " "
			}
			seen[strings.TrimSpace(labels)] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"GET /api/v1/managed_agents/agents/:agent_id 404": 20, "GET unmatched 404": 20, "GET /docs/:file 404": 20, "other unmatched 405": 20,
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", seen, want)
	}
}
