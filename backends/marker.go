package backends

import (
	"encoding/json"

	"github.com/droverhq/drover/dataset"
)

// DecodeMarker decodes data, the pool.json of a pool, into marker. Its keys "backend" and "format" have the same
// meaning in all formats, so they are read before the others: a pool of the named backend with a later format than
// known is refused with dataset.ErrUnsupported. Each backend has its own formats. The caller compares the backend.
func DecodeMarker(data []byte, backend string, known int, marker any) error {
	var head struct {
		Backend string `json:"backend"`
		Format  int    `json:"format"`
	}
	if json.Unmarshal(data, &head) == nil && head.Backend == backend {
		if err := dataset.CheckFormat("the pool of backend "+backend, head.Format, known); err != nil {
			return err
		}
	}
	return json.Unmarshal(data, marker)
}
