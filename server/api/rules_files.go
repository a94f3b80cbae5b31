package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
)

// fileRoots are the directories that files may be written under.
var fileRoots = []string{"~", "/workspace", "/tmp", "/data"}

const wrongSize = "is not the size of the content"

func checkFiles(body map[string]any, found *violations) {
	files, _ := body["sandbox_files"].([]any)
	total := 0
	for i, f := range files {
		file, _ := f.(map[string]any)
		content, ok := file["content"].(string)
		total += len(content)
		if path, ok := file["sandbox_path"].(string); ok {
			found.addIf(pointer("sandbox_files", strconv.Itoa(i), "sandbox_path"), checkSandboxPath(path))
		}
		size, given := file["size"].(json.Number)
		if ok && given && checkBase64(content) == nil && size.String() != strconv.Itoa(decodedLen(content)) {
			found.add(pointer("sandbox_files", strconv.Itoa(i), "size"), wrongSize)
		}
	}
	checkFilesSize(total, found)
}

func checkFilesSize(total int, found *violations) {
	if total > maxFilesBase64 {
		found.addf("/sandbox_files", "has %d characters of base64 in all and may have %d", total, maxFilesBase64)
	}
}

// checkDigests checks the entries of a body that may leave out content.
func checkDigests(body map[string]any, found *violations) {
	files, _ := body["sandbox_files"].([]any)
	for i, f := range files {
		file, isObject := f.(map[string]any)
		content, hasContent := file["content"].(string)
		digest, hasDigest := file["sha256"].(string)
		switch {
		case isObject && file["content"] == nil && file["sha256"] == nil:
			found.add(pointer("sandbox_files", strconv.Itoa(i), "content"), "is required without sha256")
		case hasContent && hasDigest && checkBase64(content) == nil && digest != digestOf(content):
			found.add(pointer("sandbox_files", strconv.Itoa(i), "sha256"), "is not that of the content")
		}
	}
}

// digestOf hashes what base64 stands for without decoding it as a whole.
func digestOf(content string) string {
	sum := sha256.New()
	_, _ = io.Copy(sum, base64.NewDecoder(base64.StdEncoding, strings.NewReader(content))) // it was checked
	return hex.EncodeToString(sum.Sum(nil))
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
