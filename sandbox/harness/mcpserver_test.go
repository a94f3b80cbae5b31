package harness_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// serveMCP is a stdio MCP server with one tool, word, that answers with its first argument and an environment variable.
func serveMCP(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var req struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params struct {
				ProtocolVersion string `json:"protocolVersion"`
			} `json:"params"`
		}
		if json.Unmarshal(lines.Bytes(), &req) != nil || req.ID == nil {
			continue
		}
		var result any
		switch req.Method {
		case "initialize":
			result = map[string]any{"protocolVersion": req.Params.ProtocolVersion, "capabilities": map[string]any{"tools": map[string]any{}},
				"serverInfo": map[string]string{"name": "test", "version": "1"}}
		case "tools/list":
			result = map[string]any{"tools": []any{map[string]any{"name": "word", "description": "says a word", "inputSchema": map[string]any{"type": "object"}}}}
		case "tools/call":
			text := fmt.Sprintf("the word is %s and %s", os.Args[2], os.Getenv("TEST_WORD"))
			result = map[string]any{"content": []any{map[string]string{"type": "text", "text": text}}}
		default:
			result = map[string]any{}
		}
		b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": req.ID, "result": result})
		if err != nil {
			return
		}
		fmt.Fprintf(out, "%s\n", b)
	}
}
