package server

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api/wire"
)

// formats returns the one format of the API. Unlike huma's own it refuses
// unknown fields also where the schema is not checked, and encodes before it
// writes, so that a peer that has gone is no encoding error.
func formats() map[string]huma.Format {
	buffers := &sync.Pool{New: func() any { return new(bytes.Buffer) }}
	f := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			buf := buffers.Get().(*bytes.Buffer)
			defer func() {
				if buf.Cap() <= 256<<10 { // one large list must not stay in memory
					buf.Reset()
					buffers.Put(buf)
				}
			}()
			enc := json.NewEncoder(buf)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return err
			}
			_, _ = w.Write(buf.Bytes()) // nobody is left to tell when this fails
			return nil
		},
		Unmarshal: wire.DecodeStrict,
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}
