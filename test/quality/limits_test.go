package quality

import (
	"go/ast"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/droverhq/drover/test/require"
)

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
