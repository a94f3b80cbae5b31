package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const forwardProtocol = "portforward.k8s.io"

// forward connects to sandboxd through the API server and the pod's node, on a connection of its own.
func (r *Runtime) forward(ctx context.Context, pod *corev1.Pod) (net.Conn, error) {
	transport, upgrader, err := spdy.RoundTripperFor(r.o.Config)
	if err != nil {
		return nil, err
	}
	url := r.core.RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	conn, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, req, forwardProtocol)
	if err != nil {
		return nil, err
	}
	f := &forwarded{conn: conn, id: sandbox.ID(pod.Name)}
	if err := f.open(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return f, nil
}

// forwarded is a net.Conn over the two streams of a forwarded port. It has no deadlines: nothing in HTTP over it needs them.
type forwarded struct {
	conn httpstream.Connection
	data httpstream.Stream
	id   sandbox.ID
}

func (f *forwarded) open() error {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(Port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	fault, err := f.conn.CreateStream(headers)
	if err != nil {
		return err
	}
	if err := fault.Close(); err != nil { // nothing is written to it; what comes on it ends the data, too
		return err
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	f.data, err = f.conn.CreateStream(headers)
	return err
}

func (f *forwarded) Read(p []byte) (int, error)  { return f.data.Read(p) }
func (f *forwarded) Write(p []byte) (int, error) { return f.data.Write(p) }
func (f *forwarded) Close() error                { return f.conn.Close() }
func (f *forwarded) LocalAddr() net.Addr         { return podAddr("") }
func (f *forwarded) RemoteAddr() net.Addr        { return podAddr(f.id) }

func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }

type podAddr sandbox.ID

func (podAddr) Network() string  { return "port-forward" }
func (a podAddr) String() string { return string(a) }
