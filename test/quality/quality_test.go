// Package quality checks the rules of this project that a program can check and no linter does.
package quality

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// top is the root of the repository, seen from this package.
const top = "../.."

// A source is one parsed Go file; its name is relative to the root.
type source struct {
	name string
	file *ast.File
	set  *token.FileSet
}

func (s source) isTest() bool {
	return strings.HasSuffix(s.name, "_test.go")
}

// lines returns the number of lines of a node, including the first and the last one.
func (s source) lines(n ast.Node) int {
	return s.set.Position(n.End()).Line - s.set.Position(n.Pos()).Line + 1
}

// files lists the repository's files that end in suffix, without build results and downloads.
func files(t *testing.T, suffix string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", ".cache", "bin"}, entry.Name()):
			return filepath.SkipDir
		case entry.Type().IsRegular() && strings.HasSuffix(path, suffix):
			name, err := filepath.Rel(top, path)
			names = append(names, name)
			return err
		}
		return nil
	})
	require.NoError(t, err)
	return names
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, name := range files(t, ".go") {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join(top, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		if !ast.IsGenerated(file) {
			all = append(all, source{name: name, file: file, set: set})
		}
	}
	if len(all) < 50 {
		t.Fatalf("only %d Go files found below %s", len(all), top)
	}
	return all
}

// Every package has one package comment. In a package with only tests, it is in one of the tests.
func TestOneCommentPerPackage(t *testing.T) {
	type pkg struct{ files, comments []string }
	packages := map[string]*pkg{}
	onlyTests := map[string]bool{}
	all := sources(t)
	for _, s := range all {
		dir := filepath.Dir(s.name)
		if was, seen := onlyTests[dir]; !seen || was {
			onlyTests[dir] = s.isTest()
		}
	}
	for _, s := range all {
		dir := filepath.Dir(s.name)
		if s.isTest() && !onlyTests[dir] {
			if s.file.Doc != nil && strings.HasPrefix(s.file.Doc.Text(), "Package ") {
				t.Errorf("%s: the comment of a package belongs into a file that is no test", s.name)
			}
			continue
		}
		if packages[dir] == nil {
			packages[dir] = &pkg{}
		}
		packages[dir].files = append(packages[dir].files, s.name)
		if s.file.Doc != nil {
			packages[dir].comments = append(packages[dir].comments, s.name)
		}
	}
	for dir, p := range packages {
		if len(p.comments) != 1 {
			t.Errorf("%s: %d package comments in %v, want one in its %d files", dir, len(p.comments), p.comments, len(p.files))
		}
	}
}

func TestPackagesAreNamedForWhatTheyHold(t *testing.T) {
	nothing := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base"}
	for _, s := range sources(t) {
		if name := strings.TrimSuffix(s.file.Name.Name, "_test"); slices.Contains(nothing, name) {
			t.Errorf("%s: package %s says nothing about what it holds", s.name, name)
		}
	}
}

// A test that lacks something fails. Only internal/long skips tests, which are too long for the short form.
func TestNoTestIsSkipped(t *testing.T) {
	for _, s := range sources(t) {
		if filepath.Dir(s.name) == "internal/long" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			var signature *ast.FuncType
			var body *ast.BlockStmt
			switch f := n.(type) {
			case *ast.FuncDecl:
				signature, body = f.Type, f.Body
			case *ast.FuncLit:
				signature, body = f.Type, f.Body
			}
			if body != nil {
				for _, name := range testingParameters(signature) {
					reportSkips(t, s, body, name)
				}
			}
			return true
		})
	}
}

// testingParameters are the names of the parameters of a type from package testing.
func testingParameters(f *ast.FuncType) []string {
	var names []string
	for _, field := range f.Params.List {
		typ := field.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		sel, ok := typ.(*ast.SelectorExpr)
		if !ok {
			continue
		}
		if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "testing" {
			continue
		}
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}

func reportSkips(t *testing.T, s source, body *ast.BlockStmt, receiver string) {
	t.Helper()
	ast.Inspect(body, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == receiver {
			t.Errorf("%s:%d: a test that lacks something fails; one that takes long says long.Only(t)",
				s.name, s.set.Position(sel.Pos()).Line)
		}
		return true
	})
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(top, name))
	require.NoError(t, err)
	return string(data)
}

// The spec of a volume, such as db@gold, is parsed once: where it enters Drover. All other code gets a
// dataset.Reference.
func TestSpecsAreParsedAtTheDoors(t *testing.T) {
	doors := map[string]bool{
		"dataset/spec.go":           true, // ParseReference itself
		"plugin/calls.go":           true, // engines
		"agent/agenttest/engine.go": true, // engines of tests
		"control/api/operations.go": true, // the API: the CLI, and agents on other hosts
	}
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if s.isTest() || strings.HasPrefix(s.name, "test/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			var name string
			switch f := call.Fun.(type) {
			case *ast.SelectorExpr:
				name = f.Sel.Name
			case *ast.Ident:
				name = f.Name
			}
			if name != "ParseSpec" && name != "ParseReference" {
				return true
			}
			seen[s.name] = true
			if !doors[s.name] {
				t.Errorf("%s: %s is called behind the doors: pass the dataset.Reference on", s.set.Position(call.Pos()), name)
			}
			return true
		})
	}
	for door := range doors {
		if !seen[door] {
			t.Errorf("%s parses no spec any more: take it off the list of doors", door)
		}
	}
}
