package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
)

// openStore opens a store in the root. One that cannot be read is put aside, for
// a person to look at, and an empty one takes its place: the agent sees that it is
// another one, lets containers mount what it knows and destroys nothing.
func openStore(ctx context.Context, o Options, name string, opts bolt.Options) (*bolt.Store, error) {
	path := filepath.Join(o.Root, name)
	st, err := bolt.Open(ctx, path, opts)
	if !errors.Is(err, dataset.ErrCorrupt) {
		return st, err
	}
	aside := path + agent.DamagedMark + uuid.NewString()[:8]
	if rerr := os.Rename(path, aside); rerr != nil {
		return nil, errors.Join(err, fmt.Errorf("put it aside: %w", rerr))
	}
	o.Log.WithError(err).WithFields(logrus.Fields{"file": path, "aside": aside}).Error("it was put aside")
	return bolt.Open(ctx, path, opts)
}
