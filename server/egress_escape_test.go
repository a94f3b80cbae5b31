package main_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// escape tries to leave a sandbox without the proxy that it is given, and prints each way that led out. Its arguments are the
// address of the API and the socket of the proxy.
const escape = `
import ctypes, glob, os, socket, sys
api, proxy = sys.argv[1], sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)

def tcp(host, port, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(5)
        s.connect((host, port))
    return True

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.sendto(b"ping", ("93.184.215.14", 53))
        return s.recv(10) == b"ping"

def abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0lap-escape-test")
    return True

def packets(family, kind, proto=0):
    with socket.socket(family, kind, proto):
        return True

def enter():
    own = os.readlink("/proc/self/ns/net")
    for path in glob.glob("/proc/[0-9]*/ns/net"):
        try:
            if os.readlink(path) == own:
                continue
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if libc.setns(fd, 0) == 0:
            return True
    return False

def without_credential():
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(proxy)
        s.sendall(b"CONNECT allowed.example:80 HTTP/1.1\r\nHost: allowed.example:80\r\n\r\n")
        return s.recv(100).startswith(b"HTTP/1.1 200")

def memory():
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if open(path + "/cmdline", "rb").read().split(b"\0")[0].endswith(b"/lap"):
                open(path + "/mem", "rb").close()
                return True
        except OSError:
            pass
    return False

ways = {
    "tcp": lambda: tcp("93.184.215.14", 80),
    "api": lambda: tcp(*(lambda h, p: (h, int(p)))(*api.rsplit(":", 1))),
    "udp": udp,
    "abstract": abstract,
    "enter": enter,
    "memory": memory,
    "icmp": lambda: packets(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet": lambda: packets(socket.AF_PACKET, socket.SOCK_RAW),
    "credential": without_credential,
}
out = []
for name, way in ways.items():
    try:
        if way():
            out.append(name)
    except OSError:
        pass
print("<out=" + " ".join(out) + ">")
`

func TestNoWayLeadsOutOfASandboxButTheProxy(t *testing.T) {
	if !servertest.InNetwork(t) {
		return
	}
	serveInternet(t)
	serveEscapes(t)
	s := newServer(t, storetest.KindSQLite, "SANDBOX_NETWORK=own")
	api, proxy := strings.TrimPrefix(s.url, "http://"), filepath.Join(s.dir, "egress.sock")
	id := s.open(client.AgentCreate{
		Model: "demo/escape", SandboxFiles: nullable.NewNullableWithValue([]client.SandboxFileCreate{
			{Name: "e", SandboxPath: "~/escape.py", Content: []byte(escape)},
		}),
	}, client.SessionCreate{})
	s.await(id, client.SessionStatusReady)
	s.ended(id, s.post(id, "RUN: env -u HTTP_PROXY -u http_proxy python3 ~/escape.py "+api+" "+proxy))
	said := ""
	for _, r := range s.gateway.Requests() {
		said += toolOutput(r)
	}
	if !strings.Contains(said, "<out=>") {
		t.Errorf("ways out: %.500s", said)
	}
	// Outside, the same program does get out: else it could not have found anything.
	file := filepath.Join(t.TempDir(), "escape.py")
	if err := os.WriteFile(file, []byte(escape), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := exec.Command("python3", file, api, proxy).CombinedOutput()
	if err != nil || !strings.Contains(string(free), "<out=tcp api udp abstract") {
		t.Errorf("outside it finds %s, %v", free, err)
	}
}

// serveEscapes listens where the program may come out.
func serveEscapes(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", "@lap-escape-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p, err := net.ListenPacket("udp", servertest.PublicAddr+":53")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { p.Close(); <-ended })
	go func() {
		defer close(ended)
		b := make([]byte, 64)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(b[:n], from)
		}
	}()
}
