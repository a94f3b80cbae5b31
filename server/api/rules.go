package api

import (
	"encoding/json"
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

// fileRoots are the directories that files may be written under.
var fileRoots = []string{"~", "/workspace", "/tmp", "/data"}

// rules are what a schema cannot say about bodies. They run beside the schema, so that all violations are reported at once, and
// leave values of the wrong type to it.
type rules struct{ schemes []string }

func (r rules) byOperation() map[string]rule {
	return map[string]rule{"createAgent": r.agent, "createSession": checkSession, "sendMessage": checkMessage}
}

func (r rules) agent(body map[string]any, found *violations) {
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
	checkEnv(body, found)
	checkFiles(body, found)
}

func checkSession(body map[string]any, found *violations) { checkEnv(body, found) }

// addIf adds a message unless it is empty.
func (v *violations) addIf(field, message string) {
	if message != "" {
		v.add(field, message)
	}
}

func checkEnv(body map[string]any, found *violations) {
	env, ok := body["env_vars"].(map[string]any)
	if !ok {
		return
	}
	size := 2 + max(0, len(env)-1) // braces and commas
	var quoted []byte
	for key, value := range env {
		s, _ := value.(string)
		quoted, _ = jsontext.AppendQuote(quoted[:0], key) // both are valid UTF-8
		size += len(quoted) + 1
		quoted, _ = jsontext.AppendQuote(quoted[:0], s)
		size += len(quoted)
	}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		switch field := pointer("env_vars", key); {
		case !isEnvName(key):
			found.add(field, "is not the name of an environment variable")
		case slices.Contains(reservedEnv, key):
			found.add(field, "is reserved")
		}
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

func checkFiles(body map[string]any, found *violations) {
	files, _ := body["sandbox_files"].([]any)
	total := 0
	for i, f := range files {
		file, _ := f.(map[string]any)
		content, ok := file["content"].(string)
		total += len(content)
		at := func(name string) string { return pointer("sandbox_files", strconv.Itoa(i), name) }
		if path, ok := file["sandbox_path"].(string); ok {
			found.addIf(at("sandbox_path"), checkSandboxPath(path))
		}
		size, given := file["size"].(json.Number)
		if ok && given && checkBase64(content) == nil && size.String() != strconv.Itoa(decodedLen(content)) {
			found.add(at("size"), "is not the size of the content")
		}
	}
	if total > maxFilesBase64 {
		found.addf("/sandbox_files", "has %d characters of base64 in all and may have %d", total, maxFilesBase64)
	}
}

// checkSandboxPath says what is wrong with the path of a file in a sandbox.
func checkSandboxPath(path string) string {
	root, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if strings.HasPrefix(path, "/") {
		root = "/" + root
	}
	segments := strings.Split(rest, "/")
	switch {
	case path == "":
		return "" // minLength has said so
	case !slices.Contains(fileRoots, root):
		return "must be under " + strings.Join(fileRoots, ", ")
	case slices.Contains(segments, ".."):
		return "must not have a .. segment"
	case slices.Contains([]string{"", "."}, segments[len(segments)-1]):
		return "must name a file"
	case hasControl(path):
		return "must not have control characters"
	case slices.ContainsFunc(segments, func(s string) bool { return len(s) > 255 }):
		return "has a name of more than 255 bytes"
	}
	return ""
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
