package server

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Bytes is an answer that is not JSON.
type Bytes struct {
	Body func(huma.Context)
}

func (h handlers) transfers() {
	add(h, download(route.ExportVolume, "volumes", "Read a volume as a tar archive",
		"application/x-tar"),
		func(ctx context.Context, in *struct {
			VolumeParam
			Snapshot string `query:"snapshot" doc:"name or unique prefix of the UUID; absent: the present content"`
		}) (*Bytes, error) {
			changeOf(ctx).addDetail("snapshot ", in.Snapshot)
			return stream("application/x-tar", func(ctx context.Context, w *streamWriter) (err error) {
				w.leftOut, err = h.Local.Export(ctx, in.Volume, in.Snapshot, w)
				return err
			}), nil
		})
	add(h, download(route.BackupStore, "host", "Read a copy of the store", "application/octet-stream"),
		func(context.Context, *struct{}) (*Bytes, error) {
			return stream("application/octet-stream", func(ctx context.Context, w *streamWriter) error {
				return h.Backup.Backup(ctx, w)
			}), nil
		})
	upload := endpoint(route.UploadVolume, "volumes", "Create a volume from a tar archive",
		"The path has the spec of the new volume. The archive may have any size.")
	upload.RequestBody = &huma.RequestBody{Required: true, Content: binary("application/x-tar")}
	add(h, upload, func(ctx context.Context, in *uploadInput) (*answer[dataset.Dataset], error) {
		req := OperationParam{OperationIDParam: in.OperationIDParam}.request(dataset.OpImport)
		req.Volume = in.Volume
		for _, o := range in.Options {
			key, value, ok := strings.Cut(o, "=")
			if !ok {
				return nil, dataset.Errorf(dataset.ErrInvalid, "bad option %q: want KEY=VALUE", dataset.Clip(o))
			}
			if req.Options == nil {
				req.Options = map[string]string{}
			}
			req.Options[key] = value
		}
		return reply(h.Local.Import(ctx, req, in.archive))
	})
}

type uploadInput struct {
	OperationIDParam // and no dry run: the agent reads the archive while it creates the volume
	VolumeParam
	Options []string `query:"o,explode" doc:"KEY=VALUE, as with docker volume create -o; can be repeated"`
	archive io.Reader
}

// Resolve keeps the reader of the body, which huma would otherwise read into memory.
func (in *uploadInput) Resolve(ctx huma.Context) []error {
	in.archive = ctx.BodyReader()
	return nil
}

func download(r route.Route, tag, summary, contentType string) huma.Operation {
	op := endpoint(r, tag, summary, "")
	op.Description = "Ends with trailers if the request asks for them (TE: trailers): " + wire.CodeTrailer + " is " +
		wire.CodeOK + ", or the code of the problem that " + wire.DetailTrailer + " has, percent-encoded. " +
		wire.LeftOutTrailer + " has the number of sockets that a complete archive lacks, and the first of " +
		"their paths. " +
		"Without trailers, the connection breaks if the archive is incomplete."
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: binary(contentType)}}
	return op
}

func binary(contentType string) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
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
