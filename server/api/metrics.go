package api

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests. Labels are bounded: routes come from the operation table, methods from a list.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lap_http_requests_total", Help: "Requests answered.",
		}, []string{"method", "route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lap_http_request_duration_seconds", Help: "Time to answer, event streams left out.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lap_http_requests_in_flight", Help: "Requests being answered, event streams included.",
		}),
	}
	return m, errors.Join(r.Register(m.requests), r.Register(m.duration), r.Register(m.inFlight))
}

// counter returns what counts a request when its answer has ended.
func (m *metrics) counter(c echo.Context, op *operation, status int) func(took time.Duration) {
	method, route := c.Request().Method, "unmatched"
	if !slices.Contains(methods, method) {
		method = "other"
	}
	if op != nil {
		route = op.path
	}
	endless := strings.HasPrefix(c.Response().Header().Get("Content-Type"), contentTypeSSE)
	return func(took time.Duration) {
		m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
		if !endless {
			m.duration.WithLabelValues(method, route).Observe(took.Seconds())
		}
	}
}
