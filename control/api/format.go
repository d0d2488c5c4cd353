package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/danielgtaylor/huma/v2"
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
		Unmarshal: decodeStrict,
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}

// decodeStrict reads one JSON value into v, and refuses unknown fields and
// whatever follows the value.
func decodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return errBadBody(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bad JSON: more than one value")
	}
	return nil
}
