package demo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	slowPace  = 100 * time.Millisecond
	maxPieces = 600
)

// answer is what a request gets: a failure, a tool call, or pieces of text.
type answer struct {
	status     int    // if not 0, the request fails with it
	times      int    // so often, then the pieces come; 0: always
	retryAfter string // header of the failure; empty: none
	message    string
	tool       string // if not empty, this tool is called
	arguments  string // of the tool, JSON
	reasoning  string
	pieces     []string
	pace       time.Duration // between two pieces
	end        string        // of the pieces: empty, cut or hang
}

const (
	endCut  = "cut"
	endHang = "hang"
)

func say(text string) answer { return answer{pieces: strings.SplitAfter(text, " ")} }

// decide picks the answer to a request.
func decide(c chatRequest) answer {
	if c.asksForTitle() {
		return say("[demo] Conversation")
	}
	last := c.lastUser()
	if last < 0 {
		return say("[demo] This is the demo gateway, not a model. It saw no user message.")
	}
	word, rest := scriptWord(c.Messages[last])
	switch word {
	case "FAIL":
		return fail(rest)
	case "SLOW":
		return slow(rest)
	case "CUT", "HANG":
		return stop(strings.ToLower(word), rest)
	case "THINK":
		a := say("[demo] Thought about: " + rest)
		a.reasoning = rest
		return a
	case "RUN", "CALL":
		if output, ok := c.toolResult(last); ok {
			return say("[demo] RESULT: " + output)
		}
		if word == "RUN" {
			return c.run(rest)
		}
		return c.call(rest)
	}
	return echo(c.Messages[last])
}

// scriptWord finds a script word at the start of a text part.
func scriptWord(m chatMessage) (word, rest string) {
	for _, p := range m.Content {
		line, _, _ := strings.Cut(strings.TrimSpace(p.Text), "\n")
		word, rest, found := strings.Cut(line, ":")
		switch word {
		case "RUN", "CALL", "SLOW", "THINK", "FAIL", "CUT", "HANG":
			if found {
				return word, strings.TrimSpace(rest)
			}
		}
	}
	return "", ""
}

func fail(rest string) answer {
	words := append(strings.Fields(rest), "", "", "")
	status, err := strconv.Atoi(words[0])
	if err != nil || status < 400 || status > 599 {
		status = http.StatusBadRequest
	}
	a := say("[demo] The demo gateway has failed often enough.")
	a.status, a.message = status, fmt.Sprintf("[demo] the demo gateway fails with %d, as it was asked to", status)
	a.times, _ = strconv.Atoi(words[1])
	if seconds, err := strconv.Atoi(words[2]); err == nil {
		a.retryAfter = strconv.Itoa(seconds)
	} else if status == http.StatusTooManyRequests {
		a.retryAfter = "1"
	}
	return a
}

// stop is a slow answer that breaks off, or none at all.
func stop(how, rest string) answer {
	count, times, _ := strings.Cut(rest, " ")
	a := slow(count)
	if count == "" || count == "0" {
		a.pieces = nil
	}
	a.end = how
	a.times, _ = strconv.Atoi(times)
	return a
}

func slow(rest string) answer {
	count, _, _ := strings.Cut(rest, " ")
	n, _ := strconv.Atoi(count)
	a := answer{pieces: []string{"[demo] "}, pace: slowPace}
	for i := range min(max(n, 1), maxPieces) {
		if i > 0 {
			a.pieces = append(a.pieces, "")
		}
		a.pieces[i] += strconv.Itoa(i+1) + " "
	}
	return a
}

func echo(m chatMessage) answer {
	s := "[demo] This is the demo gateway, not a model. "
	if media, _ := m.images(); len(media) > 0 {
		s += fmt.Sprintf("It saw %d image(s): %s. ", len(media), strings.Join(media, ", "))
	}
	return say(s + "You said: " + m.text())
}

// run calls the tool that runs shell commands, whatever the harness calls it.
func (c chatRequest) run(command string) answer {
	for _, t := range c.Tools {
		switch strings.ToLower(t.Function.Name) {
		case "bash", "shell", "exec", "exec_command", "run_command", "execute_command", "terminal":
			args, ok := t.shellArguments(command)
			if ok {
				return answer{tool: t.Function.Name, arguments: args}
			}
		}
	}
	return say("[demo] RUN needs a shell tool, and the harness offered none.")
}

func (c chatRequest) call(rest string) answer {
	name, args, _ := strings.Cut(rest, " ")
	args = strings.TrimSpace(args)
	if args == "" {
		args = "{}"
	}
	if !json.Valid([]byte(args)) {
		return say("[demo] CALL needs a tool and its arguments as JSON.")
	}
	for _, t := range c.Tools {
		if name != "" && strings.HasSuffix(t.Function.Name, name) {
			return answer{tool: t.Function.Name, arguments: args}
		}
	}
	return say("[demo] CALL found no offered tool with that name.")
}

// shellArguments fills a shell tool's parameters: the command, and a word for every other string that is required.
func (t tool) shellArguments(command string) (string, bool) {
	args := map[string]any{}
	for _, name := range []string{"command", "cmd", "script"} {
		p, ok := t.Function.Parameters.Properties[name]
		if !ok {
			continue
		}
		args[name] = command
		if p.Type == "array" {
			args[name] = []string{"sh", "-c", command}
		}
		break
	}
	if len(args) == 0 {
		return "", false
	}
	for _, name := range t.Function.Parameters.Required {
		if _, ok := args[name]; !ok && t.Function.Parameters.Properties[name].Type == "string" {
			args[name] = "demo"
		}
	}
	b, err := json.Marshal(args)
	return string(b), err == nil
}
