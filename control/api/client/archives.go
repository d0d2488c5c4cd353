package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Export writes a volume, or one snapshot of it, to w as a tar archive, and returns which files the archive lacks. If
// Export fails, the archive is incomplete.
func (h Host) Export(ctx context.Context, ref, snapshot string, w io.Writer) (api.OmittedFiles, error) {
	k := newCall(endpoint.ExportVolume.Endpoint, endpoint.ExportParams{
		VolumeParam: endpoint.VolumeParam{Volume: ref}, Snapshot: snapshot,
	})
	trailer, err := h.conn.download(ctx, k, w)
	if err != nil {
		return api.OmittedFiles{}, err
	}
	return wire.ReadOmittedFiles(trailer)
}

// Backup writes a copy of the store to w. If Backup fails, the copy is incomplete.
func (h Host) Backup(ctx context.Context, w io.Writer) error {
	_, err := h.conn.download(ctx, newCall(endpoint.BackupStore.Endpoint, endpoint.None{}), w)
	return err
}

// Import creates a volume from a tar archive. Only the ID, the volume, the options and the kind OpImport can be set in
// req. If another field is set, it fails with ErrInvalid. After an error, a call of r.Read may still be in progress.
func (h Host) Import(ctx context.Context, req api.Request, r io.Reader) (d dataset.Dataset, err error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	if req.Kind == "" {
		req.Kind = dataset.OpImport
	}
	carried := api.Request{ID: req.ID, Kind: dataset.OpImport, Volume: req.Volume, Options: req.Options}
	if !reflect.DeepEqual(req, carried) {
		return d, dataset.Errorf(dataset.ErrInvalid,
			"import of %q from an archive: expected only the volume and its options", dataset.Clip(req.Volume))
	}
	in := endpoint.UploadParams{
		OperationIDParam: endpoint.OperationIDParam{Operation: req.ID},
		VolumeParam:      endpoint.VolumeParam{Volume: req.Volume},
	}
	for key, value := range req.Options {
		in.Options = append(in.Options, key+"="+value)
	}
	k := newCall(endpoint.UploadVolume.Endpoint, in)
	source := &watchedSource{r: r}
	k.stream, k.typ = source, "application/x-tar"
	// The server must be able to refuse the request before it reads the archive.
	k.header = http.Header{"Expect": {"100-continue"}}
	d, err = fetch[dataset.Dataset](ctx, h.conn, k)
	if cause := source.failure(); err != nil && ctx.Err() == nil && cause != nil {
		return d, fmt.Errorf("archive for %q: %w", dataset.Clip(req.Volume), cause)
	}
	return d, err
}

// watchedSink remembers the error of the caller's writer, so that it is not reported as an error of the server.
type watchedSink struct {
	w   io.Writer
	err error
}

func (s *watchedSink) Write(b []byte) (n int, err error) {
	n, s.err = s.w.Write(b)
	return n, s.err
}

// watchedSource remembers the error of the caller's reader. The transport reads it in another goroutine.
type watchedSource struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (s *watchedSource) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
	return n, err
}

func (s *watchedSource) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
