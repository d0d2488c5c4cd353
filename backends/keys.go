package backends

import (
	"context"

	"github.com/droverhq/drover/dataset"
)

// Keys has the data keys of datasets. What only looks at a dataset, copies or destroys it needs
// none: Create, Attach, Resize of an encrypted one do, and Clone into another size.
type Keys interface {
	// DataKey returns the data key of an encrypted dataset, as its record lies in the pool:
	// there may be a newer one. ErrForbidden: the key of the operator that it takes is not
	// here; the error says which, and what would help.
	DataKey(ctx context.Context, d dataset.Dataset) ([]byte, error)
}
