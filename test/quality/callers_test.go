package quality

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module is the import path of the repository's root.
const module = "github.com/droverhq/drover/"

// maxNamedCallers is how many importers a package comment must name. A package with more importers serves the whole
// tree, and a list of them would help nobody.
const maxNamedCallers = 8

// callerGroups are words of a package comment that stand for every importer below a folder. Within the agent and within
// control, they would say too little.
var callerGroups = map[string]*regexp.Regexp{
	"agent":    regexp.MustCompile(`\b[Aa]gents?\b`),
	"backends": regexp.MustCompile(`\b[Bb]ackends\b`),
	"cmd":      regexp.MustCompile(`cmd/drover|\bCLI\b|\bcommands?\b`),
	"control":  regexp.MustCompile(`\b[Cc]ontrol\b`),
}

// harness matches the packages that only tests import. A package comment need not name them.
var harness = regexp.MustCompile(`(^test|test)(/|$)`)

// A reader learns from the package comment who calls the package. This checks that no importer is missing: one that
// was added later is forgotten easily.
func TestPackageCommentsNameTheirCallers(t *testing.T) {
	comments := map[string]string{}
	importers := map[string]map[string]bool{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.name)
		if s.file.Doc != nil && !s.isTest() {
			comments[dir] = s.file.Doc.Text()
		}
		if s.isTest() || harness.MatchString(dir) {
			continue
		}
		for _, spec := range s.file.Imports {
			imported, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
			if !ok {
				continue
			}
			if importers[imported] == nil {
				importers[imported] = map[string]bool{}
			}
			importers[imported][dir] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(importers)) {
		if len(importers[dir]) > maxNamedCallers {
			continue
		}
		for _, importer := range slices.Sorted(maps.Keys(importers[dir])) {
			if !namesCaller(dir, comments[dir], importer) {
				t.Errorf("the comment of package %s does not name %s, which imports it", dir, importer)
			}
		}
	}
}

// namesCaller reports whether the comment of a package names the importer: by the last part of its path, by the folder
// above it if that is the backend or component to which it belongs, or by a group.
func namesCaller(dir, comment, importer string) bool {
	folder, _, _ := strings.Cut(importer, "/")
	group, within := callerGroups[folder], strings.HasPrefix(dir, folder+"/") && (folder == "agent" || folder == "control")
	if group != nil && !within && group.MatchString(comment) {
		return true
	}
	names := regexp.QuoteMeta(filepath.Base(importer))
	if parent := filepath.Dir(importer); strings.Contains(parent, "/") {
		names += "|" + regexp.QuoteMeta(filepath.Base(parent))
	}
	return regexp.MustCompile(`(?i)\b(` + names + `)s?\b`).MatchString(comment)
}
