package server

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api/wire"
)

// formats returns the only format of the API, JSON. Unlike the format of huma, it refuses unknown fields even if the
// schema is not checked. It encodes the whole answer before it writes, so that a write to a closed connection is not
// reported as an encoding error.
func formats() map[string]huma.Format {
	buffers := &sync.Pool{New: func() any { return new(bytes.Buffer) }}
	f := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			buf := buffers.Get().(*bytes.Buffer)
			defer func() {
				if buf.Cap() <= 256<<10 { // do not keep the memory of one large list
					buf.Reset()
					buffers.Put(buf)
				}
			}()
			enc := json.NewEncoder(buf)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return err
			}
			_, _ = w.Write(buf.Bytes()) // if this fails, the peer is gone
			return nil
		},
		Unmarshal: wire.DecodeStrict,
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}
