package backends

import (
	"encoding/json"

	"github.com/droverhq/drover/dataset"
)

// DecodeMarker decodes data, the pool.json of a pool, into marker. The keys "backend" and "format" have the same
// meaning in all formats, so DecodeMarker reads them before the others. It fails with dataset.ErrUnsupported if the
// pool belongs to the named backend and its format is later than known. Each backend counts its formats separately. The
// caller checks that the pool belongs to its backend.
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
