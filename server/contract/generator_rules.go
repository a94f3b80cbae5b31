package contract

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// What follows is what only descriptions say.

var (
	// objectKinds are the schemas of objects that paths name, parents first.
	objectKinds = []string{"agent", "skill", "session", "turn"}
	// lasting are the kinds that can still be read when they were deleted.
	lasting = map[string]bool{"session": true}
	// keysOfTurns are the operations whose Idempotency-Key names a turn.
	keysOfTurns = []string{"sendMessage", "streamMessage"}
	// forced are parameters without which an answer would not end.
	forced = map[string]bool{"streamEvents follow": true, "sendMessage Prefer": true}
)

// samples make values of fields that are not any text, by name.
var samples = map[string]func(*Generator) any{
	"model": func(g *Generator) any {
		return pick(g, []string{"anthropic/claude-sonnet-4-6", "m", g.o.Marker, strings.Repeat("m", 255), strings.Repeat("é", 256)})
	},
	"repo_url": func(g *Generator) any {
		return pick(g, []string{"https://github.com/org/", "https://git.example.com:8443/x?y=", "https://1.2.3.4/", "HTTPS://h./a%20b/", "https://[2001:db8::1]/"}) + g.o.Marker
	},
	"pfp_url": func(g *Generator) any {
		return pick(g, []string{"https://example.com/p.png?", "https://x/"}) + g.o.Marker
	},
	"branch": func(g *Generator) any {
		return pick(g, []string{"main", "feature/", "a-b_c.d/", "ünï/", "x/-", "a@", "日本/"}) + g.o.Marker
	},
	"mcp_servers": func(g *Generator) any {
		return pick(g, []string{
			"https://mcp.example.com/", "docs=https://h/mcp#Authorization=Bearer ${TOKEN} ", "a=sse+http://h/", "stdio:npx -y server ", "s=stdio:sh -c 'x y' ", "sse+https://h/x?y=z#A=b#C=d",
		}) + g.o.Marker
	},
	"allow_out": egressSample,
	"deny_out":  egressSample,
	"env_vars{}": func(g *Generator) any {
		return g.o.Secret + g.text(g.IntN(20))
	},
	"skill_ids": func(g *Generator) any { return g.live("skill") },
	"skill_id":  func(g *Generator) any { return g.live("skill") },
	"prompt": func(g *Generator) any {
		s := ""
		for range g.IntN(3) {
			id := g.live("skill")
			if id == "" || g.chance(0.3) {
				id = g.unknownID("skill")
			}
			s += g.text(g.IntN(20)) + "\n<!-- skill:" + strings.ToValidUTF8(strings.ReplaceAll(id, "\x00", ""), "") + " -->\n" + g.text(g.IntN(20))
		}
		if most := uint64(1 << 20); s == "" {
			s = g.text(g.length(0, &most))
		}
		return s
	},
	"sandbox_path": func(g *Generator) any {
		return pick(g, []string{"~/", "~/.config/a b/", "/workspace/repo/", "/tmp/./", "/tmp//ä/", "/data/..a/"}) + g.o.Marker + fmt.Sprint(g.IntN(1000))
	},
	"media_type": func(g *Generator) any { return pick(g, []string{"image/png", "image/jpeg", "image/gif", "image/webp"}) },
}

func egressSample(g *Generator) any {
	return pick(g, []string{
		"example.com", g.o.Marker + ".example.com", "*." + g.o.Marker + ".example.com.", "EXAMPLE.com.", "xn--mnchen-3ya.de", "1.2.3.4", "10.0.0.0/8", "::1", "2001:db8::/32", "0.0.0.0/0", "localhost",
	})
}

// faulty are values that the rules of a name refuse, although its schema may allow them.
var faulty = map[string][]string{
	"repo_url": {
		"", "github.com/x", "http://h/x", "git@github.com:x/y", "ssh://git@h/x", "file:///x", "ext::sh -c id", "https:x", "https:///x", "https://u@h/x", "https://u:p@h/x", "https://h/x#f", "https://h/\nx",
		"https://h/x y", `https://h\x`, "https://-h/x", "https://h:port/x", "https://[fe80::1%25eth0]/x", "https://0x7f000001/x", "https://127.1/x", "https://2130706433/x", "https://%00/x", "-x",
	},
	"pfp_url":     {"", "x", "http://x", "data:image/png;base64,AA==", "javascript:alert(1)", "https://u@h/", "https://"},
	"branch":      {"", "-x", "--upload-pack=x", "@", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", `a\b`, "a..b", "a@{b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a\n", "a\x7f"},
	"mcp_servers": {"", "x", "ftp://h/x", "Docs=https://h/x", "1=https://h/x", "https://", "https:// h", "stdio:", "stdio: x", "sse+stdio:x", "a=b=https://h/x", "http:/h/x", " https://h/x"},
	"allow_out":   badEgress,
	"deny_out":    badEgress,
	"sandbox_path": {
		"a", "./a", "~", "~/", "~root/x", "/tmp", "/tmp/", "/tmp/.", "/tmpx/a", "/etc/passwd", "/", "//tmp/a", "/tmp/../etc/passwd", "~/..", "/tmp/a/..", "../tmp/a", `C:\x`, "/tmp/a\nb", "/tmp/" + strings.Repeat("a", 256),
	},
	"sha256": {"", "x", strings.Repeat("A", 64), strings.Repeat("a", 63), strings.Repeat("a", 65), strings.Repeat("g", 64), strings.Repeat("a", 64) + "\n"},
}

var badEgress = []string{
	"*", "*.com", "*.", "*.*.example.com", "a.*.com", "*example.com", ".", ".example.com", "example..com", "example.com..", "http://example.com", "example.com:443", "example.com/", "//example.com",
	"user@example.com", "h:1:2", "[::1]", "1.2.3.4:80", "fe80::1%eth0", "10.0.0.0/33", "10.0.0.0/08", "1.2.3", "256.1.1.1", "0177.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "127.1", "exa mple.com",
	"example.com%00", "ex\tample.com", "münchen.de", "exаmple.com", "-a.com", "a_b.com", strings.Repeat("a", 64) + ".com", "example.com\n", "*.1.2.3.4", "#", "a,b.com", "::ffff:0:1.2.3.4/129",
}

// freeKey is a name of an environment variable.
func freeKey(g *Generator) string {
	return pick(g, []string{"A", "_", "TOKEN", "a1", "Path", "LONG_" + strings.Repeat("X", 100), "GITHUB_TOKEN", "port"}) + fmt.Sprint(g.IntN(100_000))
}

// live returns the id of an object that exists, or an empty text.
func (g *Generator) live(kind string) string {
	if len(g.objects[kind]) == 0 {
		return ""
	}
	return pick(g, g.objects[kind]).ID
}

// complete makes values fit together, by schema.
var complete = map[string]func(*Generator, map[string]any){
	"AgentCreate":       func(g *Generator, b map[string]any) { fitAgent(g, b) },
	"AgentUpdate":       func(g *Generator, b map[string]any) { fitAgent(g, b); keepStored(g, b) },
	"SessionCreate":     func(g *Generator, b map[string]any) { fitAgent(g, b) },
	"SandboxFileCreate": fitFile,
	"SandboxFileUpdate": func(g *Generator, b map[string]any) {
		if b["content"] == nil {
			b["content"] = g.base64(&openapi3.Schema{})
		}
		fitFile(g, b)
	},
	"SkillAttach": func(g *Generator, b map[string]any) {
		id := g.live("skill")
		if id != "" && g.chance(0.6) {
			maps.DeleteFunc(b, func(_ string, v any) bool { return v != nil })
			b["skill_id"] = id
			return
		}
		delete(b, "skill_id")
		if b["content"] == nil {
			b["content"] = g.text(30)
		}
	},
	"MessageCreate": func(g *Generator, b map[string]any) {
		if b["text"] != nil && b["parts"] != nil {
			b[pick(g, []string{"text", "parts"})] = nil
		}
		if b["text"] == nil && b["parts"] == nil {
			b["text"] = g.text(10)
		}
		images := 0
		list, _ := b["parts"].([]any)
		for i, p := range list {
			if p.(map[string]any)["type"] != "image" {
				continue
			}
			if images++; images > 10 {
				list[i] = map[string]any{"type": "text", "text": g.text(10)}
			}
		}
	},
}

// fitAgent drops skills where none exist, and at times fills an environment to its last byte.
func fitAgent(g *Generator, b map[string]any) {
	if list, ok := b["skill_ids"].([]any); ok {
		b["skill_ids"] = slices.DeleteFunc(list, func(v any) bool { return v == "" })
	}
	if p, _ := b["prompt"].(string); len(p) > 100_000 {
		delete(b, "skill_ids") // their blocks would not fit
	}
	if env, ok := b["env_vars"].(map[string]any); ok && g.chance(0.05) {
		fillEnv(g, env, 16384)
	}
}

// fillEnv makes an environment of n bytes as compact JSON, most of them in K.
func fillEnv(g *Generator, env map[string]any, n int) {
	clear(env)
	env["K"] = ""
	for range g.IntN(49) {
		env[freeKey(g)] = g.o.Secret
	}
	used, _ := json.Marshal(env)
	env["K"] = strings.Repeat("v", n-len(used))
}

func fitFile(_ *Generator, b map[string]any) {
	data, _ := base64.StdEncoding.DecodeString(b["content"].(string))
	if b["size"] != nil {
		b["size"] = json.Number(fmt.Sprint(len(data)))
	}
	if b["sha256"] != nil {
		sum := sha256.Sum256(data)
		b["sha256"] = hex.EncodeToString(sum[:])
	}
}

// keepStored sends back some of what the agent was read with.
func keepStored(g *Generator, b map[string]any) {
	if g.target == nil {
		return
	}
	if env, _ := b["env_vars"].(map[string]any); env != nil && len(env) < 20 && env["K"] == nil {
		stored, _ := g.target.Body["env_vars"].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(stored)) {
			if key != "K" && len(key) < 20 && g.chance(0.5) {
				env[key] = "********"
			}
		}
	}
	files, _ := b["sandbox_files"].([]any)
	stored, _ := g.target.Body["sandbox_files"].([]any)
	if len(stored) == 0 || files == nil || len(files) > 10 {
		return
	}
	file := maps.Clone(pick(g, stored).(map[string]any))
	for _, key := range []string{"content_type", "size"} {
		if g.chance(0.3) {
			delete(file, key)
		}
	}
	b["sandbox_files"] = append(files, file)
}
