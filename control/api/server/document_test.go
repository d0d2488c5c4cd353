package server

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestOpenAPIIsServed also checks what generators of clients depend on.
func TestOpenAPIIsServed(t *testing.T) {
	h := Handler(Deps{Service: newFake()})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.yaml", nil))
	want, _ := OpenAPI().YAML()
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
			Description string
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
			if op.OperationID == "" || op.Summary == "" || op.Description == "" || len(op.Tags) != 1 || op.Responses["4XX"] == nil || op.Responses["5XX"] == nil {
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
