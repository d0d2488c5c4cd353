package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	fencePattern   = regexp.MustCompile("(?ms)^```.*?^```$")
)

// TestLinks follows each link within the repository, including the heading.
func TestLinks(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range linkPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(p.text, ""), -1) {
			if strings.Contains(m[1], "://") {
				t.Errorf("%s: link to %s: nothing out there can be checked", p.name, m[1])
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := filepath.Join(top, p.name)
			if path != "" {
				target = filepath.Join(filepath.Dir(target), path)
			}
			text, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: link to %s: %v", p.name, m[1], err)
				continue
			}
			if anchor != "" && !anchors(string(text))[anchor] {
				t.Errorf("%s: link to %s: %s has no such heading", p.name, m[1], target)
			}
		}
	}
}

// anchors returns the anchors of headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range headingPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(text, ""), -1) {
		anchor := strings.ToLower(strings.ReplaceAll(m[1], " ", "-"))
		all[regexp.MustCompile("[^a-z0-9_-]").ReplaceAllString(anchor, "")] = true
	}
	return all
}
