package quality

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

var (
	codePattern     = regexp.MustCompile(`\b[ABCDI][0-9]{1,2}\b`)
	codesInTestName = regexp.MustCompile(`^(?:Test|Benchmark|Fuzz)((?:[ABCDI][0-9]{1,2})+)`)
	codeDefinition  = regexp.MustCompile(`(?m)^\| (?:\[([ABCDI][0-9]{1,2})\]\(#[^)]*\)|([ABCDI][0-9]{1,2})) \| \S`)
)

// definedCodes returns the codes of invariants and scenarios, each with the page that defines it: the first cell
// of a row in one of its tables.
func definedCodes(t *testing.T) map[string]string {
	t.Helper()
	defined := map[string]string{}
	for _, page := range []string{"docs/invariants.md", "docs/scenarios.md"} {
		for _, m := range codeDefinition.FindAllStringSubmatch(read(t, page), -1) {
			code := m[1] + m[2]
			if other, twice := defined[code]; twice {
				t.Errorf("%s defines %s, which %s defines already", page, code, other)
			}
			defined[code] = page
		}
	}
	return defined
}

// citedCodes returns the codes that a file cites in comments, in the names of tests and in strings that begin with
// codes, which are the names of subtests. Each citation is given as "file:line: code".
func citedCodes(s source) map[string][]string {
	cited := map[string][]string{}
	cite := func(at token.Pos, codes ...string) {
		for _, code := range codes {
			cited[code] = append(cited[code], fmt.Sprintf("%s:%d", s.name, s.set.Position(at).Line))
		}
	}
	for _, group := range s.file.Comments {
		for _, comment := range group.List {
			cite(comment.Pos(), codePattern.FindAllString(comment.Text, -1)...)
		}
	}
	subtest := regexp.MustCompile(`^(?:[ABCDI][0-9]{1,2}\b ?)+`)
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if m := codesInTestName.FindStringSubmatch(n.Name.Name); m != nil {
				cite(n.Pos(), regexp.MustCompile(`[ABCDI][0-9]{1,2}`).FindAllString(m[1], -1)...)
			}
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				cite(n.Pos(), codePattern.FindAllString(subtest.FindString(text), -1)...)
			}
		}
		return true
	})
	return cited
}

// A reader finds out in docs/invariants.md or docs/scenarios.md what the code in the name of a test stands for.
func TestCitedCodesAreDefined(t *testing.T) {
	defined := definedCodes(t)
	if len(defined) < 40 {
		t.Fatalf("only %d definitions found: %v", len(defined), defined)
	}
	used := map[string]bool{}
	for _, s := range sources(t) {
		for code, places := range citedCodes(s) {
			used[code] = true
			if defined[code] == "" {
				t.Errorf("%s: docs/invariants.md and docs/scenarios.md do not define %s", strings.Join(places, ", "), code)
			}
		}
	}
	config := read(t, ".golangci.yml")
	for _, code := range codePattern.FindAllString(config, -1) {
		if defined[code] == "" {
			t.Errorf(".golangci.yml cites %s, which no page defines", code)
		}
	}
	for i := 1; i <= 12; i++ {
		if code := fmt.Sprint("I", i); !used[code] {
			t.Errorf("no test cites %s", code)
		}
	}
}

func TestCodesOfAFile(t *testing.T) {
	text := "package p\n\n// One writes (I1, and C2 of all).\nfunc TestB2B7(t *T) {\n" +
		"\tt.Run(\"A10 I6 wrong words\", nil)\n\tprintln(\"not B9, which is no name\")\n}\n"
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "p.go", text, parser.ParseComments)
	require.NoError(t, err)
	got := citedCodes(source{name: "p.go", file: file, set: set})
	for _, code := range []string{"I1", "C2", "B2", "B7", "A10", "I6"} {
		if len(got[code]) != 1 {
			t.Errorf("%s is cited at %v, want one place", code, got[code])
		}
	}
	if len(got) != 6 {
		t.Errorf("cited: %v", got)
	}
}
