package harness

import "time"

// GivesUp repeats a request that fails at once and then again at each of the given times after that, and returns the reason why
// it is given up at the last of them, which comes with a wait until the next.
func GivesUp(wait time.Duration, after ...time.Duration) string {
	var r retries
	begun := time.Now()
	why := r.spent(1, begun, begun.Add(time.Second))
	for i, d := range after {
		now := begun.Add(d)
		next := now.Add(time.Second)
		if i == len(after)-1 {
			next = now.Add(wait)
		}
		why = r.spent(i+2, now, next)
	}
	return why
}

// CodexConfig returns what codex is configured by for a model called after the prompt, the same prompt and an MCP server with
// these headers.
func CodexConfig(home, prompt string, headers map[string]string) (profile []byte, args []string, err error) {
	s := &codexSetup{
		config:  Config{Model: prompt, Prompt: prompt, Env: []string{"HOME=" + home}, Dir: home},
		servers: []MCPServer{{Name: "s", Kind: MCPHTTP, URL: "http://127.0.0.1/", Headers: headers}},
	}
	if profile, err = s.encoded(); err != nil {
		return nil, nil, err
	}
	args, err = s.arguments()
	return profile, args, err
}
