package api

import (
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/openapi.yaml anew")

// TestOpenAPIIsKept fails when docs/openapi.yaml is not what the handlers say.
func TestOpenAPIIsKept(t *testing.T) {
	got, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "docs", "openapi.yaml")
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
		t.Errorf("docs/openapi.yaml is stale, run go generate ./control/api (-kept +is):\n%s", diff)
	}
}

func TestOpenAPIIsTheSameEveryTime(t *testing.T) {
	first, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := OpenAPI()
		if err != nil || string(again) != string(first) {
			t.Fatalf("another document, %v:\n%s", err, cmp.Diff(string(first), string(again)))
		}
	}
}

// TestOpenAPIIsServed also looks at what generators of clients stumble over.
func TestOpenAPIIsServed(t *testing.T) {
	h := Handler(Deps{Service: newFake()})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.yaml", nil))
	want, _ := OpenAPI()
	if w.Code != 200 || w.Body.String() != string(want) || w.Header().Get("Content-Type") != "application/openapi+yaml" {
		t.Errorf("yaml: %d %s, %d bytes of %d", w.Code, w.Header(), w.Body.Len(), len(want))
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.json", nil))
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Tags        []string
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 {
		t.Fatal(w.Code, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %s", doc.OpenAPI)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || op.Summary == "" || len(op.Tags) != 1 || op.Responses["default"] == nil {
				t.Errorf("%s %s: %+v", method, path, op)
			}
		}
	}
	for name := range doc.Components.Schemas {
		if strings.Contains(w.Body.String(), `"ErrorModel"`) || strings.HasSuffix(name, "Request") && name != "Request" {
			t.Errorf("schema %s", name)
		}
	}
}
