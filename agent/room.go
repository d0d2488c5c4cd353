package agent

import (
	"context"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// fitsPool refuses a volume that is larger than its whole pool. The sizes of all volumes together may be larger.
func fitsPool(ctx context.Context, pool backends.Pool, size dataset.Size) error {
	if st := pool.Status(ctx); st.Online && st.Size > 0 && size > st.Size {
		return dataset.Errorf(dataset.ErrUnsupported,
			"its pool has %s in all, less than %s (ask for less, or for another pool: drover pool ls)",
			st.Size.Human(), size)
	}
	return nil
}
