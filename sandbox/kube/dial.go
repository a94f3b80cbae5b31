package kube

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Dial implements sandbox.Runtime. It does not wait for a sandbox that is still starting.
func (r *Runtime) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	pod, err := r.pod(ctx, id)
	if err != nil {
		return nil, err
	}
	s := status(pod)
	switch {
	case s.State == sandbox.Exited:
		return nil, fmt.Errorf("dial sandbox %s: it has ended: %s", id, s.Reason)
	case pod.Status.PodIP == "":
		return nil, fmt.Errorf("dial sandbox %s: its pod has no address yet", id)
	}
	var conn net.Conn
	if r.o.PortForward {
		conn, err = r.forward(ctx, pod)
	} else {
		d := net.Dialer{Timeout: dialWithin}
		conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(Port)))
	}
	if err != nil {
		return nil, fmt.Errorf("dial sandbox %s: %w", id, err)
	}
	return conn, nil
}

var _ sandbox.Addresser = (*Runtime)(nil)

// Addresses implements sandbox.Addresser.
func (r *Runtime) Addresses(ctx context.Context, id sandbox.ID) (list []netip.Addr, err error) {
	pod, err := r.pod(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list, nil
}

// Logs implements sandbox.Runtime: what the harness's container wrote, as its node keeps it.
func (r *Runtime) Logs(ctx context.Context, id sandbox.ID, o sandbox.LogOptions) (io.ReadCloser, error) {
	pod, err := r.pod(ctx, id)
	if err != nil {
		return nil, err
	}
	want := &corev1.PodLogOptions{Container: HarnessContainer, Follow: o.Follow}
	if o.Tail > 0 {
		want.TailLines = ptr(int64(o.Tail))
	}
	if o.Since > 0 {
		want.SinceSeconds = ptr(max(1, int64(o.Since.Seconds())))
	}
	log, err := r.core.Pods(pod.Namespace).GetLogs(pod.Name, want).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("logs of sandbox %s: %w", id, refused(err))
	}
	return log, nil
}
