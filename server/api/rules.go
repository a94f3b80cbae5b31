package api

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits that a schema cannot express; the document's descriptions name them too.
const (
	maxEnvBytes    = 16384    // UTF-8 bytes of compact JSON
	maxFilesBase64 = 10485760 // characters, all files of an agent together
	maxImages      = 10
	maxImageBytes  = 5 << 20 // decoded
	maxImagesBytes = 20 << 20
)

// reservedEnv are the names that the platform itself sets for a harness.
var reservedEnv = []string{
	"REPO_URL", "BRANCH", "LITELLM_API_KEY", "LITELLM_API_BASE", "LITELLM_DEFAULT_MODEL", "AGENT_PROMPT", "PORT", "GIT_TOKEN",
	"AGENT_REQUIREMENTS",
}

// rules are what a schema cannot say about bodies. They run beside the schema, so that all violations are reported at once, and
// leave values of the wrong type to it.
type rules struct{ schemes []string }

func (r rules) byOperation() map[string]rule {
	return map[string]rule{
		"createAgent": r.agent, "updateAgent": r.agentUpdate, "createSession": checkSession, "sendMessage": checkMessage, "streamMessage": checkMessage,
		"createSkill": checkSkill, "updateSkill": checkSkill, "attachSkill": checkAttach,
	}
}

func (r rules) agent(body map[string]any, found *violations) {
	r.network(body, found)
	checkEnv(body, "", found)
	checkFiles(body, found)
}

// agentUpdate leaves to the handler what depends on what is stored.
func (r rules) agentUpdate(body map[string]any, found *violations) {
	r.network(body, found)
	checkEnv(body, envMask, found)
	checkFiles(body, found)
	checkDigests(body, found)
}

func (r rules) network(body map[string]any, found *violations) {
	if s, ok := body["repo_url"].(string); ok {
		found.addIf("/repo_url", checkRepoURL(s, r.schemes))
	}
	if s, ok := body["pfp_url"].(string); ok {
		found.addIf("/pfp_url", checkWebURL(s, "https"))
	}
	if s, ok := body["branch"].(string); ok {
		found.addIf("/branch", checkBranch(s))
	}
	for _, name := range []string{"allow_out", "deny_out"} {
		list, _ := body[name].([]any)
		for i, entry := range list {
			if s, ok := entry.(string); ok {
				found.addIf(pointer(name, strconv.Itoa(i)), checkEgress(s))
			}
		}
	}
}

func checkSession(body map[string]any, found *violations) { checkEnv(body, "", found) }

// addIf adds a message unless it is empty.
func (v *violations) addIf(field, message string) {
	if message != "" {
		v.add(field, message)
	}
}

// checkEnv counts a value that is the mask, if there is one, as empty: what it stands for is not known yet.
func checkEnv(body map[string]any, mask string, found *violations) {
	env, ok := body["env_vars"].(map[string]any)
	if !ok {
		return
	}
	values := make(map[string]string, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if s, _ := env[key].(string); s != mask {
			values[key] = s
		} else {
			values[key] = ""
		}
		switch field := pointer("env_vars", key); {
		case !isEnvName(key):
			found.add(field, "is not the name of an environment variable")
		case slices.Contains(reservedEnv, key):
			found.add(field, "is reserved")
		}
	}
	checkEnvSize(values, found)
}

func checkEnvSize(env map[string]string, found *violations) {
	size := 2 + max(0, len(env)-1) // braces and commas
	var quoted []byte
	for key, value := range env {
		for _, s := range []string{key, value} {
			quoted, _ = jsontext.AppendQuote(quoted[:0], s) // both are valid UTF-8
			size += len(quoted)
		}
		size++ // colon
	}
	if size > maxEnvBytes {
		found.addf("/env_vars", "has %d bytes as compact JSON and may have %d", size, maxEnvBytes)
	}
}

func isEnvName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func checkMessage(body map[string]any, found *violations) {
	text, parts := body["text"], body["parts"]
	if (text == nil) == (parts == nil) {
		found.add("", "must have either text or parts")
	}
	list, _ := parts.([]any)
	images, total := 0, 0
	for i, p := range list {
		part, _ := p.(map[string]any)
		source, _ := part["source"].(map[string]any)
		data, ok := source["data"].(string)
		if !ok || checkBase64(data) != nil {
			continue
		}
		images++
		size := decodedLen(data)
		total += size
		if size > maxImageBytes {
			found.addf(pointer("parts", strconv.Itoa(i), "source", "data"), "has %d bytes and may have %d", size, maxImageBytes)
		}
	}
	if images > maxImages {
		found.addf("/parts", "has %d images and may have %d", images, maxImages)
	}
	if total > maxImagesBytes {
		found.addf("/parts", "has %d bytes of images and may have %d", total, maxImagesBytes)
	}
}
