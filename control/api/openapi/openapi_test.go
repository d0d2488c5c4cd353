package openapi_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

// TestGeneratedFilesAreTheSource fails when descriptions.json differs from the comments of the fields, or enums.json
// from the constants. With -update it writes the files.
func TestGeneratedFilesAreTheSource(t *testing.T) {
	texts, values := map[string]string{}, map[string][]string{}
	used := usedFields()
	for _, file := range sources(t) {
		addComments(texts, used, file)
		addConstants(t, values, file)
	}
	descriptions, enums := indented(t, texts), indented(t, values)
	if *golden.Update {
		for name, content := range map[string][]byte{"descriptions.json": descriptions, "enums.json": enums} {
			require.NoError(t, os.WriteFile(name, content, 0o644))
		}
		openapi.SetGenerated(descriptions, enums)
	}
	hasDescriptions, hasEnums := openapi.Generated()
	if !bytes.Equal(descriptions, hasDescriptions) || !bytes.Equal(enums, hasEnums) {
		t.Error("descriptions.json or enums.json is stale: run go generate ./control/api/openapi")
	}
}

func TestEveryPropertyHasADescription(t *testing.T) {
	for name, schema := range documented().Map() {
		for property, s := range schema.Properties {
			if s.Description == "" {
				t.Errorf("%s.%s has no description: comment its Go field and run go generate ./control/api/openapi", name, property)
			}
		}
	}
}

func documented() huma.Registry { return server.OpenAPI().Schemas }

// usedFields lists the keys of the Go fields of all properties, by the import path of their package.
func usedFields() map[string]bool {
	used := map[string]bool{}
	schemas := documented()
	for name := range schemas.Map() {
		for _, key := range openapi.PropertyKeys(schemas.TypeFromRef("#/components/schemas/" + name)) {
			used[key] = true
		}
	}
	return used
}

// sources parses the packages whose types the API uses, without their tests.
func sources(t *testing.T) (parsed []*ast.File) {
	t.Helper()
	for _, dir := range []string{"control/api", "dataset", "internal/pki"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "..", filepath.FromSlash(dir), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
			require.NoError(t, err)
			parsed = append(parsed, f)
		}
	}
	return parsed
}

// addComments adds the comments of the used fields of a file.
func addComments(texts map[string]string, used map[string]bool, file *ast.File) {
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		s, ok := spec.Type.(*ast.StructType)
		if !ok {
			return false
		}
		for _, f := range s.Fields.List {
			for _, name := range f.Names {
				key := file.Name.Name + "." + spec.Name.Name + "." + name.Name
				if text := commentOf(f); used[key] && text != "" {
					texts[key] = text
				}
			}
		}
		return false
	})
}

// addConstants adds the values of the typed string constants of a file. An empty value is left out, because its
// property is absent.
func addConstants(t *testing.T, values map[string][]string, file *ast.File) {
	t.Helper()
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		typ, typed := spec.Type.(*ast.Ident)
		lit, literal := spec.Values[0].(*ast.BasicLit)
		if !typed || !literal || lit.Kind != token.STRING {
			return true
		}
		value, err := strconv.Unquote(lit.Value)
		require.NoError(t, err)
		if key := file.Name.Name + "." + typ.Name; value != "" {
			values[key] = append(values[key], value)
		}
		return true
	})
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "\t")
	require.NoError(t, err)
	return append(out, '\n')
}

// commentOf returns the comment above a field, or the comment behind it, on one line.
func commentOf(f *ast.Field) string {
	text := f.Doc.Text()
	if text == "" {
		text = f.Comment.Text()
	}
	return strings.TrimSuffix(strings.Join(strings.Fields(text), " "), ".")
}

func TestFieldsOfEmbeddedTypesKeepTheirOwner(t *testing.T) {
	fields := openapi.PropertyKeys(reflect.TypeFor[api.Volume]())
	for property, want := range map[string]string{"node": "api.Volume.Node", "id": "dataset.Dataset.ID"} {
		if got := fields[property]; got != want {
			t.Errorf("%s: got %q, want %q", property, got, want)
		}
	}
}

// TestOpenAPIIsKept fails when docs/openapi.yaml is not what the handlers say.
func TestOpenAPIIsKept(t *testing.T) {
	got, err := server.OpenAPI().YAML()
	require.NoError(t, err)
	golden.Check(t, "../../../docs/openapi.yaml", string(got))
}

func TestOpenAPIIsTheSameEveryTime(t *testing.T) {
	first, err := server.OpenAPI().YAML()
	require.NoError(t, err)
	for range 5 {
		again, err := server.OpenAPI().YAML()
		if err != nil || string(again) != string(first) {
			t.Fatalf("another document, %v:\n%s", err, cmp.Diff(string(first), string(again)))
		}
	}
}
