package record_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// TestNodeKeysAreComplete expects that each function that returns a key of a node is called by NodeKeys, or is an
// exception with a reason. Otherwise a new record of a node would stay when the node is removed.
func TestNodeKeysAreComplete(t *testing.T) {
	exceptions := map[string]string{
		"RevokedNodeKey": "stays, so that the removed node cannot come back",
		"LiveNodeKey":    "is deleted with the session of the agent",
		"HomeKey":        "a node with datasets is not removed",
		"CopyKey":        "noderemoval removes each copy, and checks that it is not the only one",
		"SharedMountKey": "noderemoval removes each shared mount",
		"WorkKey":        "noderemoval ends each operation",
	}
	file, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var keys, listed []string
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil {
			continue
		}
		if fn.Name.Name == "NodeKeys" {
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					listed = append(listed, call.Fun.(*ast.Ident).Name)
				}
				return true
			})
			continue
		}
		params := fn.Type.Params.List
		if strings.HasSuffix(fn.Name.Name, "Key") && len(params) > 0 && params[0].Names[0].Name == "node" {
			keys = append(keys, fn.Name.Name)
		}
	}
	for _, key := range keys {
		if _, excepted := exceptions[key]; excepted == slices.Contains(listed, key) {
			t.Errorf("%s must be in NodeKeys or in the exceptions of this test, and not in both", key)
		}
		delete(exceptions, key)
	}
	if len(keys) < 8 || len(exceptions) > 0 {
		t.Errorf("got %d keys of nodes in keys.go: %v; exceptions without a key: %v", len(keys), keys, exceptions)
	}
}
