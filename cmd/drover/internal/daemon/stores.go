package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// storeFile is the store in the root.
const storeFile = "store.db"

// held is the store that control works on.
type held struct {
	store.Store
	kind    string
	check   func(context.Context) error // why it cannot be used as it is; of one in Consul
	backup  api.Backup                  // nil where it cannot be copied from here
	figures []figure
	catalog store.Catalog // nil: there is none
}

// openHeld opens the store of a host by itself: in Consul where the configuration
// says so, otherwise in a file of the root. An unusable store in Consul ends the start with the reason: all
// requests would only fail.
func openHeld(ctx context.Context, o Options, c clock.Clock) (held, error) {
	if o.Consul == nil {
		st, err := openStore(ctx, o, storeFile, bolt.Options{Clock: c})
		if err != nil {
			return held{}, err
		}
		if err := usable(ctx, st); err != nil {
			return held{}, errors.Join(err, st.Close())
		}
		return held{Store: st, kind: "bolt", backup: st, figures: boltFigures(st)}, nil
	}
	st, err := openConsul(o, c)
	if err != nil {
		return held{}, err
	}
	if err := st.check(ctx); err != nil {
		return held{}, errors.Join(err, st.Close())
	}
	return st, nil
}

// openConsul opens the store in Consul without asking it anything.
func openConsul(o Options, c clock.Clock) (held, error) {
	st, err := newConsul(o, c)
	if err != nil {
		return held{}, err
	}
	return held{Store: st, kind: "consul", check: checkConsul(st), figures: consulFigures(st), catalog: st}, nil
}

func newConsul(o Options, c clock.Clock) (*consul.Store, error) {
	opts := *o.Consul
	opts.Clock = c
	return consul.Open(opts)
}

func checkConsul(st *consul.Store) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := st.Check(ctx); err != nil {
			return err
		}
		return usable(ctx, st)
	}
}

// usable fails if an import into a store was interrupted, or if a newer Drover wrote its records.
func usable(ctx context.Context, st store.Store) error {
	if err := dump.Whole(ctx, st); err != nil {
		return err
	}
	return record.CheckFormat(ctx, st)
}

// openStore opens a store in the root. One that cannot be read is put aside, for
// a person to look at, and an empty one takes its place: the agent sees that it is another one, lets
// containers mount the known volumes and destroys nothing.
func openStore(ctx context.Context, o Options, name string, opts bolt.Options) (*bolt.Store, error) {
	path := filepath.Join(o.Root, name)
	st, err := bolt.Open(ctx, path, opts)
	if err == nil {
		tellCompaction(o, path, st.Compaction())
	}
	if !errors.Is(err, dataset.ErrCorrupt) {
		return st, err
	}
	aside := path + agent.DamagedMark + uuid.NewString()[:8]
	if rerr := os.Rename(path, aside); rerr != nil {
		return nil, errors.Join(err, fmt.Errorf("move the file aside: %w", rerr))
	}
	o.Log.WithError(err).WithFields(logrus.Fields{"file": path, "aside": aside}).Error("moved the damaged file aside")
	return bolt.Open(ctx, path, opts)
}

// tellCompaction logs what opening a store did about its file.
func tellCompaction(o Options, path string, c bolt.Compaction) {
	log := o.Log.WithFields(logrus.Fields{"file": path, "from": c.From, "to": c.To})
	switch {
	case c.Err != nil:
		log.WithError(c.Err).Warn("the store's file is mostly free, and compacting it failed")
	case c.From > 0:
		log.Info("compacted the store's file, which was mostly free")
	}
}
