package egress_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// BenchmarkEgress compares ways to the same upstream in one run, a connection straight to it among them: what a request in an open
// tunnel and what a new tunnel takes, how much goes through one, and what 5,000 silent ones cost. The proxies are processes of
// their own. Times of a busy machine are worth comparing, and nothing else.
func BenchmarkEgress(b *testing.B) {
	tinyproxy, err := exec.LookPath("tinyproxy")
	if err != nil {
		b.Fatal("tinyproxy is missing, which the proxy is compared with: apt-get install tinyproxy-bin")
	}
	needFiles(b, 2*silentTunnels+500)
	up := startUpstream(b)
	ways := []way{{name: "direct", dial: func() (net.Conn, error) { return net.Dial("tcp", up) }}}
	ours := startOwn(b)
	ways = append(ways, tunnelled("lap", ours, "Proxy-Authorization: Bearer "+benchCredential()+"\r\n", up))
	theirs := startTinyproxy(b, tinyproxy)
	ways = append(ways, tunnelled("tinyproxy", theirs, "", up))
	var direct [3]float64
	for i, w := range ways {
		for j, part := range []struct {
			name, unit string
			measure    func(*testing.B, way) float64
		}{{"request", "µs-p50", requestTime}, {"tunnel", "tunnels/s", tunnelRate}, {"stream", "MiB/s", streamRate}} {
			b.Run(w.name+"/"+part.name, func(b *testing.B) {
				got := part.measure(b, w)
				b.ReportMetric(got, part.unit)
				b.ReportMetric(0, "ns/op")
				if i == 0 {
					direct[j] = got
				} else if direct[j] > 0 {
					b.ReportMetric(got/direct[j], "of-direct")
				}
			})
		}
		if w.pid > 0 {
			b.Run(w.name+"/silent", func(b *testing.B) {
				silent(b, w)
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

const (
	silentTunnels = 5000
	benchUser     = "LAP_BENCH_PROXY"
	chunk         = 64 << 10
	streamed      = 512 << 20
)

type way struct {
	name string
	dial func() (net.Conn, error)
	pid  int
}

// tunnelled is a way through a proxy.
func tunnelled(name string, p proxyProcess, auth, up string) way {
	request := "CONNECT " + up + " HTTP/1.1\r\nHost: " + up + "\r\n" + auth + "\r\n"
	return way{name: name, pid: p.pid, dial: func() (net.Conn, error) {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			return nil, err
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, request); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		var head []byte
		for one := []byte{0}; !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, one[0]) {
			if _, err := io.ReadFull(c, one); err != nil {
				return nil, errors.Join(err, c.Close())
			}
		}
		if !strings.HasPrefix(string(head), "HTTP/1.1 200") && !strings.HasPrefix(string(head), "HTTP/1.0 200") {
			return nil, errors.Join(fmt.Errorf("%q", head), c.Close())
		}
		return c, c.SetDeadline(time.Time{})
	}}
}

// startUpstream answers 'p' with one byte, and 's' with a stream of bytes.
func startUpstream(b *testing.B) string {
	return serveConnsFor(b, time.Hour, func(c net.Conn) {
		block := make([]byte, chunk)
		for one := []byte{0}; ; {
			if _, err := io.ReadFull(c, one); err != nil {
				return
			}
			n := 1
			if one[0] == 's' {
				n = streamed / chunk
			}
			for range n {
				out := block
				if one[0] == 'p' {
					out = block[:1]
				}
				if _, err := c.Write(out); err != nil {
					return
				}
			}
		}
	})
}

func requestTime(b *testing.B, w way) float64 {
	c, err := w.dial()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	one := []byte("p")
	var times []time.Duration
	for i := range 20_000 {
		begun := time.Now()
		if _, err := c.Write([]byte("p")); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			b.Fatal(err)
		}
		if i > 500 {
			times = append(times, time.Since(begun))
		}
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1000
}

func tunnelRate(b *testing.B, w way) float64 {
	var left atomic.Int64
	left.Store(4000)
	begun := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for one := []byte{0}; left.Add(-1) >= 0; {
				c, err := w.dial()
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := c.Write([]byte("p")); err != nil {
					b.Error(err)
				}
				if _, err := io.ReadFull(c, one); err != nil {
					b.Error(err)
				}
				_ = c.(*net.TCPConn).SetLinger(0) // else ports run out
				c.Close()
			}
		})
	}
	wg.Wait()
	return 4000 / time.Since(begun).Seconds()
}

func streamRate(b *testing.B, w way) float64 {
	c, err := w.dial()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	begun := time.Now()
	if _, err := c.Write([]byte("s")); err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c, streamed); err != nil {
		b.Fatal(err)
	}
	return streamed / (1 << 20) / time.Since(begun).Seconds()
}

// silent opens tunnels that then say nothing.
func silent(b *testing.B, w way) {
	before := rss(b, w.pid)
	var list []net.Conn
	defer func() {
		for _, c := range list {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	one := []byte{0}
	for range silentTunnels {
		c, err := w.dial()
		if err != nil {
			b.Logf("%s: no more than %d: %v", w.name, len(list), err)
			break
		}
		list = append(list, c)
		if _, err := c.Write([]byte("p")); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			b.Fatal(err)
		}
	}
	after := rss(b, w.pid)
	b.ReportMetric(float64(len(list)), "open")
	b.ReportMetric(before, "MiB-before")
	b.ReportMetric(after, "MiB-RSS")
	b.ReportMetric((after-before)*1024/float64(len(list)), "KiB/tunnel")
}

// rss is the resident memory of a process and its children, in MiB.
func rss(b *testing.B, pid int) (mib float64) {
	b.Helper()
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, p := range append(strings.Fields(string(children)), strconv.Itoa(pid)) {
		text, err := os.ReadFile("/proc/" + p + "/status")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		if f := strings.Fields(rest); len(f) > 0 {
			kib, err := strconv.Atoi(f[0])
			if err != nil {
				b.Fatal(err)
			}
			mib += float64(kib) / 1024
		}
	}
	return mib
}

func needFiles(b *testing.B, n uint64) {
	b.Helper()
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		b.Fatal(err)
	}
	if files.Cur < n && files.Max >= n {
		files.Cur = files.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &files)
	}
	if files.Cur < n {
		b.Fatalf("the limit of open files is %d: ulimit -n %d", files.Cur, n)
	}
}

type proxyProcess struct {
	addr string
	pid  int
}

func startProcess(b *testing.B, addr string, cmd *exec.Cmd) proxyProcess {
	b.Helper()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return proxyProcess{addr, cmd.Process.Pid}
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not listen", cmd.Path)
		}
	}
}

func freeAddr(b *testing.B) string {
	b.Helper()
	l := listen(b)
	l.Close()
	return l.Addr().String()
}

// startOwn starts this program again as a proxy.
func startOwn(b *testing.B) proxyProcess {
	addr := freeAddr(b)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestMain$")
	cmd.Env = append(os.Environ(), benchUser+"="+addr)
	cmd.Stderr = os.Stderr
	return startProcess(b, addr, cmd)
}

func startTinyproxy(b *testing.B, path string) proxyProcess {
	addr := freeAddr(b)
	_, port, _ := strings.Cut(addr, ":")
	config := filepath.Join(b.TempDir(), "tinyproxy.conf")
	text := "Port " + port + "\nListen 127.0.0.1\nTimeout 600\nMaxClients 10000\nLogLevel Critical\nDisableViaHeader Yes\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	return startProcess(b, addr, exec.Command(path, "-d", "-c", config))
}

var benchPolicy = policy.Spec{AllowCIDRs: []string{"127.0.0.0/8"}, DenyOut: []string{"*.denied.example"}}

func benchClaims() (egress.Claims, *policy.Policy) {
	p, err := policy.New(benchPolicy)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	return egress.Claims{Key: egress.Key{Session: "bench", Attempt: 1}, Policy: p.Hash(), IssuedAt: now, Expires: now.Add(time.Hour)}, p
}

func benchCredential() string {
	c, _ := benchClaims()
	return egress.SignCredential(signingKey, c)
}

// serveBench is the proxy of startOwn, as lap egress runs it: with a session that one policy holds for, and its address checked.
func serveBench(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	p := egress.New(egress.Options{Key: signingKey.Public().(ed25519.PublicKey), MaxTunnels: 2 * silentTunnels})
	claims, pol := benchClaims()
	p.Open(claims.Key, egress.Session{Policy: pol, Source: netip.MustParseAddr("127.0.0.1")})
	return p.Serve(l)
}
