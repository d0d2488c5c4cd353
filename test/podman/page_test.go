package podman

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// page returns docs/podman.md.
func page(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/podman.md")
	require.NoError(t, err)
	return string(text)
}

// blocks returns the blocks of the page in one language.
func blocks(t testing.TB, language string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(page(t), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("docs/podman.md shows no %s", language)
	}
	return all
}

// configuration is the file that the page has its reader write.
func configuration(t testing.TB) string {
	t.Helper()
	return blocks(t, "toml")[0]
}

// TestPage runs the commands of docs/podman.md in their order. The output of each command must be the one shown below
// it, with anything in the place of "…". A command that is shown with an error must fail.
func TestPage(t *testing.T) {
	w := begin(t)
	w.podman(t, "tag", image, "docker.io/library/redis")
	w.write(t, filepath.Join(w.dir, "web.yaml"), blocks(t, "yaml")[0], 0o644)
	commands := 0
	for _, block := range blocks(t, "console") {
		for _, c := range regexp.MustCompile(`(?m)^\$ `).Split(block, -1)[1:] {
			commands++
			line, shown, _ := strings.Cut(strings.TrimSpace(c), "\n")
			fails := regexp.MustCompile(`(?m)^(Error|drover): `).MatchString(shown)
			r := w.sh(t, line)
			if fails != (r.exit != 0) {
				t.Errorf("the page shows that it fails: %t: %v", fails, r)
			}
			for want := range strings.Lines(shown) {
				parts := strings.Split(strings.TrimSpace(want), "…")
				for i, p := range parts {
					parts[i] = regexp.QuoteMeta(p)
				}
				if !regexp.MustCompile(`(?m)^` + strings.Join(parts, ".*") + `$`).MatchString(r.out + r.err) {
					t.Errorf("the page shows %q: %v", want, r)
				}
			}
		}
	}
	if commands < 15 {
		t.Errorf("only %d commands are on the page", commands)
	}
	if got := w.podman(t, "volume", "inspect", "--format", "{{.Timeout}}", "db"); got != "60" {
		t.Errorf("Podman waits %s seconds for an answer, not what the page says", got)
	}
}
