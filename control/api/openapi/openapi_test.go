package openapi_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api/server"
)

var update = flag.Bool("update", false, "write docs/openapi.yaml anew")

// TestOpenAPIIsKept fails when docs/openapi.yaml is not what the handlers say.
func TestOpenAPIIsKept(t *testing.T) {
	got, err := server.OpenAPI().YAML()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "..", "docs", "openapi.yaml")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(kept), string(got)); diff != "" {
		t.Errorf("docs/openapi.yaml is stale, run go generate ./control/api/openapi (-kept +is):\n%s", diff)
	}
}

func TestOpenAPIIsTheSameEveryTime(t *testing.T) {
	first, err := server.OpenAPI().YAML()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := server.OpenAPI().YAML()
		if err != nil || string(again) != string(first) {
			t.Fatalf("another document, %v:\n%s", err, cmp.Diff(string(first), string(again)))
		}
	}
}
