package server

import (
	"net/http"

	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/wire"
)

// OpenAPI returns the document that describes the API. It is always the same: its YAML is docs/openapi.yaml.
// After a change of the API run
//
//	go generate ./control/api/openapi
func OpenAPI() *openapi.Document {
	return register(http.NewServeMux(), Deps{})
}

func serveDocument(contentType string, render func() ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text, err := render()
		if err != nil {
			wire.ProblemOf(err).Write(w)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // the peer may be gone
	}
}
