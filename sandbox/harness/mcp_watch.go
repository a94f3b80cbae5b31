package harness

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	mcpLook     = 250 * time.Millisecond
	maxMCPWords = 300     // bytes of what a harness says of a server
	maxTailed   = 1 << 20 // bytes read at once
	maxMCPLogs  = 100     // files

	mcpConnected = "connected"
	mcpFailed    = "failed"
)

// mcpLog is what a harness writes about its MCP servers.
type mcpLog struct {
	files  func() []string // that it writes to, as far as they are there
	read   func(file, line string) (server, status, message string)
	within time.Duration     // after which nothing new is expected
	status map[string]string // of each server to hear of, "unknown" at first
	tell   func(e mcpEvent)  // is told what is new
	redact func(string) string
}

func newMCPLog(c Config, within time.Duration, redact func(string) string) *mcpLog {
	tell := func(e mcpEvent) { c.Emit(Event{Type: "harness.event", Data: e}) }
	return &mcpLog{within: within, status: map[string]string{}, tell: tell, redact: redact}
}

// mcpWatch is a goroutine that follows a log.
type mcpWatch struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// watchMCP follows a log. The caller stops it.
func watchMCP(ctx context.Context, l *mcpLog) *mcpWatch {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.within)
	w := &mcpWatch{cancel: cancel}
	w.work.Go(func() { l.follow(ctx) })
	return w
}

// stop returns when the goroutine is over.
func (w *mcpWatch) stop() {
	w.cancel()
	w.work.Wait()
}

// follow ends when every server is connected, or with ctx.
func (l *mcpLog) follow(ctx context.Context) {
	logs := map[string]*tailedFile{}
	for settled := len(l.status) == 0; !settled && pause(ctx, mcpLook); {
		settled = true // a server that has connected may fail in the next line: one more look
		for _, now := range l.status {
			settled = settled && now == mcpConnected
		}
		for _, file := range l.files() {
			if logs[file] == nil && len(logs) < maxMCPLogs {
				logs[file] = &tailedFile{path: file}
			}
			if log := logs[file]; log != nil {
				for _, line := range log.lines() {
					l.heard(l.read(file, line))
				}
			}
		}
	}
}

func (l *mcpLog) heard(server, status, message string) {
	was := l.status[server]
	if was == "" || status == "" || was == status {
		return
	}
	l.status[server] = status
	if message = l.redact(message); len(message) > maxMCPWords {
		message = message[:maxMCPWords] + "…"
	}
	l.tell(mcpEvent{Kind: "mcp", Server: server, Status: status, Message: strings.ToValidUTF8(message, "")})
}

// tailedFile is a file that another process writes lines to.
type tailedFile struct {
	path   string
	offset int64
}

// lines returns the whole lines that came since the last time.
func (t *tailedFile) lines() []string {
	f, err := os.Open(t.path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, t.offset, maxTailed))
	if err != nil {
		return nil
	}
	end := strings.LastIndexByte(string(b), '\n') + 1
	if end == 0 && len(b) == maxTailed {
		end = len(b) // a line without end is nobody's
	}
	t.offset += int64(end)
	return strings.Split(string(b[:end]), "\n")
}
