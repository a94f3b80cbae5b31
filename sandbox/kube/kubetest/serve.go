package kubetest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// handler is what the API server asks a node for.
func (k *Kubelet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	mux.HandleFunc("POST /portForward/{namespace}/{pod}", k.servePort)
	return mux
}

// serveLogs serves what a pod's first process wrote. It knows the options follow and tailLines.
func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	worker := k.worker(r.PathValue("pod"))
	if worker == nil {
		http.Error(w, "no such pod", http.StatusNotFound)
		return
	}
	f, err := os.Open(worker.logFile())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	if n, err := strconv.Atoi(r.URL.Query().Get("tailLines")); err == nil {
		text, _ := io.ReadAll(f)
		lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
		_, _ = w.Write(append(bytes.Join(lines[max(0, len(lines)-n):], nil), '\n'))
	} else {
		_, _ = io.Copy(w, f)
	}
	if r.URL.Query().Get("follow") != "true" {
		return
	}
	more := time.NewTicker(10 * time.Millisecond)
	defer more.Stop()
	for last := false; !last; {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-k.ctx.Done():
			return
		case <-worker.exited:
			last = true
		case <-more.C:
		}
		_, _ = io.Copy(w, f)
	}
}

// servePort connects the streams of a forwarded port.
func (k *Kubelet) servePort(w http.ResponseWriter, r *http.Request) {
	worker := k.worker(r.PathValue("pod"))
	if worker == nil {
		http.Error(w, "no such pod", http.StatusNotFound)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 2)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-conn.CloseChan():
			return
		case s := <-streams:
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
				k.wg.Go(func() { forward(s, net.JoinHostPort(worker.ip, s.Headers().Get(corev1.PortHeader))) })
			}
		}
	}
}

// forward copies both ways until both have ended.
func forward(s httpstream.Stream, addr string) {
	defer func() { _ = s.Reset() }()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, s)
		done <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	_, _ = io.Copy(s, conn)
	_ = s.Close()
	_ = conn.Close()
	_ = s.Reset()
	<-done
}
