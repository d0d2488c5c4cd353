package backendtest

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// Keys provides the keys for pools in which every dataset of the suite is encrypted. It is used as Config.Keys. All
// datasets have the same data key, so that each can be a clone of another.
type Keys struct {
	Sealed dataset.Encryption // the record of the encryption of each dataset
	Key    []byte             // the data key
	Err    error              // the error of DataKey
}

var _ backends.Keys = (*Keys)(nil)

// NewKeys returns Keys with a new ID. The data key is the same in each call and each process, so that another process
// can read the datasets: see crashing.Main.
func NewKeys() *Keys {
	return &Keys{Sealed: dataset.Encryption{
		ID:      uuid.New(),
		KeyID:   "00000000",
		Wrapped: []byte("wrapped"),
	}, Key: treetest.Bytes(23, 64)}
}

// DataKey implements backends.Keys.
func (k *Keys) DataKey(context.Context, dataset.Dataset) ([]byte, error) { return k.Key, k.Err }
