package quality

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/droverhq/drover/test/require"
)

// forbidden are words that must not be in the tree. They are written so that they are not in this file.
var forbidden = []struct{ pattern, why string }{
	{`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`, "finish it, or say in the issue why not"},
	{`(?i)\b(not |un)impl` + `emented\b`, "what is not there has no name yet"},
	{`(^|[^a-zA-Z0-9_.-])/(wo` + `rk|fa` + `rm)/`, "a path of one machine"},
	{`bash_j` + `obs`, "a path of one machine"},
	{`\b(proxy\.gol` + `ang\.org|deb\.deb` + `ian\.org|registry\.np` + `mjs)`, "where packages come from is the machine's business"},
}

func TestForbiddenWords(t *testing.T) {
	for _, word := range forbidden {
		pattern := regexp.MustCompile(word.pattern)
		for _, name := range files(t, "") {
			if base := filepath.Base(name); base == "go.sum" || base == "LICENSE" {
				continue
			}
			text := read(t, name)
			if strings.ContainsRune(text, 0) {
				continue // not a text file
			}
			for i, line := range strings.Split(text, "\n") {
				if found := pattern.FindString(line); found != "" {
					t.Errorf("%s:%d: %q: %s", name, i+1, found, word.why)
				}
			}
		}
	}
}

// `make` lists its targets from the comments: every target has one, and all are declared.
func TestMakefileTargetsAreDocumented(t *testing.T) {
	makefile := read(t, "Makefile")
	phony := regexp.MustCompile(`(?m)^\.PHONY:(.*)$`).FindStringSubmatch(makefile)
	if phony == nil {
		t.Fatal("the Makefile declares no .PHONY targets")
	}
	declared := strings.Fields(phony[1])
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^([a-zA-Z][\w./-]*):(.*)$`).FindAllStringSubmatch(makefile, -1) {
		if !strings.Contains(m[2], "## ") {
			t.Errorf("target %s says nothing about itself: put '## what it does' behind it", m[1])
		}
		documented = append(documented, m[1])
	}
	slices.Sort(declared)
	slices.Sort(documented)
	if !slices.Equal(declared, documented) {
		t.Errorf(".PHONY declares %v, the targets are %v", declared, documented)
	}
}

// The files that a target runs exist.
func TestMakefileScriptsExist(t *testing.T) {
	there := files(t, ".sh")
	for _, script := range regexp.MustCompile(`scripts/[\w-]+\.sh`).FindAllString(read(t, "Makefile"), -1) {
		if !slices.Contains(there, script) {
			t.Errorf("the Makefile runs %s, which is not there", script)
		}
	}
}

// The pages on invariants and scenarios name tests for each of them, and each of these tests exists.
func TestInvariantsNameTests(t *testing.T) {
	exists := map[string]bool{}
	for _, name := range files(t, "_test.go") {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w+)\(`).FindAllStringSubmatch(read(t, name), -1) {
			exists[m[1]] = true
		}
	}
	for _, page := range []string{"docs/invariants.md", "docs/scenarios.md"} {
		named := regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz)[A-Z]\w+`).FindAllString(read(t, page), -1)
		if len(named) == 0 {
			t.Errorf("%s names no tests", page)
		}
		for _, test := range named {
			if !exists[test] {
				t.Errorf("%s names %s, which does not exist", page, test)
			}
		}
	}
}

// A comment names only files that exist.
func TestCommentsNameFiles(t *testing.T) {
	exists := map[string]bool{"kvs.go": true, "tree_saver.go": true} // of Consul, and of restic
	for _, name := range files(t, ".go") {
		exists[filepath.Base(name)] = true
	}
	named := regexp.MustCompile(`(^|[^\w./-])([a-z][a-z0-9_]*\.go)\b`)
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, m := range named.FindAllStringSubmatch(group.Text(), -1) {
				if !exists[m[2]] {
					t.Errorf("%s names %s, which does not exist", s.name, m[2])
				}
			}
		}
	}
}

// The page on the design names packages. If a package was moved, the page would mislead its readers.
func TestDesignNamesPackages(t *testing.T) {
	exists := map[string]bool{}
	for _, name := range files(t, "") {
		exists[name] = true
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			exists[dir] = true
		}
	}
	begins := regexp.MustCompile(`^(agent|backends|cmd|control|dataset|guard|internal|plugin|profiles|test)(/[\w./-]+)?$`)
	for _, page := range []string{"docs/design.md", "docs/glossary.md", "docs/formats.md"} {
		named := 0
		for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(read(t, page), -1) {
			if begins.MatchString(m[1]) {
				if named++; !exists[m[1]] {
					t.Errorf("%s names %s, which does not exist", page, m[1])
				}
			}
		}
		if named < 10 {
			t.Errorf("%s names only %d packages", page, named)
		}
	}
}

// Limits on the structure of the code without its tests. They stop a relapse. They are not goals: a part is cut
// where its responsibility ends, not where the limit is.
const (
	maxFileLines     = 600 // of a file, tests included
	maxFunctionLines = 70
	maxColumns       = 120 // of a line; a tab counts as 4
)

// check reports a figure above its limit.
func check(t *testing.T, what string, figure, limit int, unit string) {
	t.Helper()
	if figure > limit {
		t.Errorf("%s has %d %s, more than %d: divide it by responsibility", what, figure, unit, limit)
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, s := range sources(t) {
		check(t, s.name, s.set.File(s.file.Pos()).LineCount(), maxFileLines, "lines")
	}
}

func TestFunctionsAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, decl := range s.file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Body != nil {
				check(t, s.name+" "+f.Name.Name, s.lines(f), maxFunctionLines, "lines")
			}
		}
	}
}

// Struct tags and raw strings cannot be wrapped, so a line with one may be wider.
func TestLinesAreNarrow(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(top, s.name))
		require.NoError(t, err)
		for i, line := range strings.Split(string(text), "\n") {
			width := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t")
			if width <= maxColumns || strings.Contains(line, "`") {
				continue
			}
			t.Errorf("%s:%d has %d columns, more than %d", s.name, i+1, width, maxColumns)
		}
	}
}
