package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
)

// Bytes is an answer that is not JSON.
type Bytes struct {
	Body func(huma.Context)
}

// binary is the schema of a stream of bytes.
var binary = &huma.Schema{Type: huma.TypeString, Format: "binary"}

func content(mediaType string, s *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{mediaType: {Schema: s}}
}

// responds describes the answer of an endpoint that is not JSON.
func responds(mediaType string, s *huma.Schema) setting {
	return func(op *huma.Operation) {
		op.Responses["200"] = &huma.Response{Description: "OK", Content: content(mediaType, s)}
	}
}

// stream answers with the bytes that write produces. An error before the first byte is answered as a problem.
func stream(contentType string, write func(context.Context, *streamWriter) error) *Bytes {
	return &Bytes{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		out := &streamWriter{w: w, contentType: contentType, trailers: wire.WantsTrailers(r)}
		err := write(r.Context(), out)
		changeOf(r.Context()).noteBytes(out.sent, err)
		out.end(err)
	}}
}

type streamWriter struct {
	w           http.ResponseWriter
	contentType string
	trailers    bool
	begun       bool
	sent        int64
	leftOut     api.OmittedFiles
}

func (s *streamWriter) begin() {
	if s.begun {
		return
	}
	s.begun = true
	s.w.Header().Set("Content-Type", s.contentType)
	if s.trailers {
		s.w.Header().Set("Trailer", strings.Join(wire.TrailerNames(), ", "))
	}
	s.w.WriteHeader(http.StatusOK)
}

func (s *streamWriter) Write(b []byte) (int, error) {
	s.begin()
	n, err := s.w.Write(b)
	s.sent += int64(n)
	return n, err
}

func (s *streamWriter) end(err error) {
	if err != nil && !s.begun {
		wire.ProblemOf(err).Write(s.w)
		return
	}
	s.begin()
	switch {
	case s.trailers:
		wire.SetTrailers(s.w.Header(), s.leftOut, err)
	case err != nil:
		panic(http.ErrAbortHandler)
	}
}
