package local

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestImagesHaveTheProgramsThatThisRuntimeInstalls(t *testing.T) {
	t.Parallel()
	for image, p := range map[string]npmPackage{"opencode": opencodeX64Baseline, "claude": claudeX64, "codex": codexX64} {
		text := dockerfile(t, image)
		for _, line := range []string{
			"ARG PACKAGE=" + p.name + "\n", "ARG VERSION=" + p.version + "\n",
			`"/harness/node_modules/${PACKAGE}/` + p.file + `" /out/` + p.program + "\n",
			"COPY --from=harness /out/" + p.program + " /usr/local/bin/" + p.program + "\n",
		} {
			if !strings.Contains(text, line) {
				t.Errorf("the image %s has no %q", image, line)
			}
		}
	}
}

func TestImagesArePinnedAndRunAsNobodySpecial(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`^FROM (scratch|[a-z]+:\d+\.\d+\.\d+-bookworm(-slim)?)( AS [a-z]+)?$`)
	for _, image := range []string{"platform", "opencode", "claude", "codex"} {
		text, user := dockerfile(t, image), ""
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "FROM ") {
				user = ""
				if !pinned.MatchString(line) {
					t.Errorf("%s is not pinned: %s", image, line)
				}
			}
			if after, ok := strings.CutPrefix(line, "USER "); ok {
				user = after
			}
		}
		if user != "1000:1000" && user != "10001:10001" {
			t.Errorf("%s runs as %q", image, user)
		}
	}
	if !strings.Contains(dockerfile(t, "platform"), "/out/sandboxd /usr/local/bin/\n") {
		t.Error("pods start /usr/local/bin/sandboxd of the platform's image, which is not there")
	}
}

func dockerfile(t *testing.T, image string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "images", image, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
