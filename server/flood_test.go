package main_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestAFloodOfConnectionsTakesNoFilesFromTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	s.kill()
	// 256 files are kept for the server itself, which leaves 44 connections.
	s.cmd = exec.Command("sh", "-c", "ulimit -n 300; exec "+lap+" serve")
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = s.env, s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(s.url, "http://")
	var one net.Conn
	s.eventually("the server listens", time.Minute, func() (ok bool) {
		var err error
		one, err = net.Dial("tcp", addr)
		return err == nil
	})
	defer one.Close()
	in := bufio.NewReader(one)
	create := func(c net.Conn, in *bufio.Reader) {
		t.Helper()
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		const body = `{"model":"m"}`
		if _, err := c.Write([]byte("POST /api/v1/managed_agents/agents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n" +
			"Authorization: Bearer " + masterKey + "\r\n\r\n" + body)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("got %d", resp.StatusCode)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	create(one, in)
	var flood []net.Conn
	for range 400 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		flood = append(flood, c)
	}
	for range 20 {
		create(one, in)
	}
	for _, c := range flood {
		_ = c.Close()
	}
	last, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	create(last, bufio.NewReader(last))
	log := tail(s.log.Name(), 1000)
	if !strings.Contains(log, `"connections":44`) || strings.Contains(log, "too many open files") {
		t.Errorf("log:\n%s", tail(s.log.Name(), 20))
	}
}
