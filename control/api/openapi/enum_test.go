package openapi

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// Each constant of a type of package dataset with a closed set of values is in the schema of the type.
func TestEnumsListEveryConstant(t *testing.T) {
	want := stringConstants(t, "../../../dataset")
	r := registry()
	for _, typ := range []reflect.Type{
		reflect.TypeFor[dataset.State](), reflect.TypeFor[dataset.SnapshotKind](),
		reflect.TypeFor[dataset.LeaseState](), reflect.TypeFor[dataset.CopyKind](),
		reflect.TypeFor[dataset.Reach](), reflect.TypeFor[dataset.OpKind](),
		reflect.TypeFor[dataset.OpState](), reflect.TypeFor[dataset.Quiesce](),
		reflect.TypeFor[dataset.DeleteMode](), reflect.TypeFor[dataset.Access](),
		reflect.TypeFor[dataset.FenceKind](), reflect.TypeFor[dataset.FollowMode](),
		reflect.TypeFor[dataset.LimitEnforcement](),
	} {
		compareEnum(t, typ.Name(), r.Schema(typ, true, "").Enum, want[typ.Name()])
	}
	var codes []string
	for _, k := range dataset.Kinds() {
		codes = append(codes, k.Code)
	}
	compareEnum(t, "Problem.code", r.Map()["Problem"].Properties["code"].Enum, codes)
}

func compareEnum(t *testing.T, name string, enum []any, want []string) {
	t.Helper()
	var got []string
	for _, v := range enum {
		got = append(got, v.(string))
	}
	slices.Sort(got)
	slices.Sort(want)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("enum of %s: got %q, want %q", name, got, want)
	}
}

// stringConstants returns the values of the typed string constants of a package, by the names of their types.
func stringConstants(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]string{}
	visit := func(n ast.Node) bool {
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
		if err != nil {
			t.Fatal(err)
		}
		if value != "" {
			values[typ.Name] = append(values[typ.Name], value)
		}
		return true
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, visit)
	}
	return values
}
