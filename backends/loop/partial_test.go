package loop

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

// A stream of another kind, or with an impossible size, is refused before anything is written.
func TestHeaderOfNoImage(t *testing.T) {
	d := backends.Delivery{Dataset: dataset.Dataset{ID: uuid.New()}, Snapshot: dataset.Snapshot{ID: uuid.New()}}
	good := stream.Header{Kind: kind, Dataset: d.Dataset.ID, Snapshot: d.Snapshot.ID, Size: blockSize}
	assert.NoError(t, checkHeader(good, d))
	for name, change := range map[string]func(*stream.Header){
		"another kind": func(h *stream.Header) { h.Kind = "btrfs" },
		"no size":      func(h *stream.Header) { h.Size = 0 },
		"a negative":   func(h *stream.Header) { h.Size = -blockSize },
		"no blocks":    func(h *stream.Header) { h.Size = blockSize + 1 },
		"too large":    func(h *stream.Header) { h.Size = 1 << 60 },
	} {
		bad := good
		change(&bad)
		assert.ErrorIsf(t, checkHeader(bad, d), dataset.ErrCorrupt, "%s", name)
	}
}
