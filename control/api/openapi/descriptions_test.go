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
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/server"
)

// TestDescriptionsAreTheComments fails when descriptions.json differs from the comments of the fields. With
// -update it writes the file.
func TestDescriptionsAreTheComments(t *testing.T) {
	want := fieldComments(t, usedFields())
	if *update {
		if err := os.WriteFile("descriptions.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		openapi.SetDescriptions(want)
	}
	if !bytes.Equal(want, openapi.Descriptions()) {
		t.Error("descriptions.json is stale: run go generate ./control/api/openapi")
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
		for _, key := range openapi.PropertyFields(schemas.TypeFromRef("#/components/schemas/" + name)) {
			used[key] = true
		}
	}
	return used
}

// fieldComments reads the comments of the fields from the source of the packages whose types the API uses.
func fieldComments(t *testing.T, used map[string]bool) []byte {
	t.Helper()
	texts := map[string]string{}
	root := filepath.Join("..", "..", "..")
	for _, dir := range []string{"control/api", "dataset", "internal/pki"} {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(dir), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok {
					return true
				}
				if s, ok := spec.Type.(*ast.StructType); ok {
					for _, f := range s.Fields.List {
						for _, name := range f.Names {
							key := parsed.Name.Name + "." + spec.Name.Name + "." + name.Name
							if text := commentOf(f); used[key] && text != "" {
								texts[key] = text
							}
						}
					}
				}
				return false
			})
		}
	}
	out, err := json.MarshalIndent(texts, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
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
	fields := openapi.PropertyFields(reflect.TypeFor[api.Volume]())
	for property, want := range map[string]string{"node": "api.Volume.Node", "id": "dataset.Dataset.ID"} {
		if got := fields[property]; got != want {
			t.Errorf("%s: got %q, want %q", property, got, want)
		}
	}
}
