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

// storeFile is the name of the store's file in the root.
const storeFile = "store.db"

// openedStore is the store that control uses.
type openedStore struct {
	store.Store
	kind    string
	check   func(context.Context) error // fails if the store cannot be used now; nil for a store in a file
	backup  api.Backup                  // nil if it cannot be copied from this host
	figures []Figure
	catalog store.Catalog // nil if there is none
}

// openHostStore opens the store of a single host. It is in Consul if the configuration says so, otherwise in a file in
// the root. If the store in Consul cannot be used, openHostStore fails with the reason, because every request would
// fail.
func openHostStore(ctx context.Context, o Options, c clock.Clock) (openedStore, error) {
	if o.Consul == nil {
		st, err := openStore(ctx, o, storeFile, bolt.Options{Clock: c})
		if err != nil {
			return openedStore{}, err
		}
		if err := checkUsable(ctx, st); err != nil {
			return openedStore{}, errors.Join(err, st.Close())
		}
		return openedStore{Store: st, kind: "bolt", backup: st, figures: OfBolt(st)}, nil
	}
	st, err := openConsul(o, c)
	if err != nil {
		return openedStore{}, err
	}
	if err := st.check(ctx); err != nil {
		return openedStore{}, errors.Join(err, st.Close())
	}
	return st, nil
}

// openConsul opens the store in Consul. It sends no request to Consul.
func openConsul(o Options, c clock.Clock) (openedStore, error) {
	st, err := newConsul(o, c)
	if err != nil {
		return openedStore{}, err
	}
	return openedStore{
		Store: st, kind: "consul", check: checkConsul(st), figures: OfConsul(st), catalog: st,
	}, nil
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
		return checkUsable(ctx, st)
	}
}

// checkUsable fails if an import into a store was interrupted, or if a newer Drover wrote its records.
func checkUsable(ctx context.Context, st store.Store) error {
	if err := dump.CheckComplete(ctx, st); err != nil {
		return err
	}
	return record.CheckFormat(ctx, st)
}

// openStore opens a store in the root. A store that cannot be read is renamed, so that a person can examine it, and an
// empty one replaces it. The agent notices that the store is a different one: it lets containers mount the known
// volumes and destroys nothing.
func openStore(ctx context.Context, o Options, name string, opts bolt.Options) (*bolt.Store, error) {
	path := filepath.Join(o.Root, name)
	st, err := bolt.Open(ctx, path, opts)
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
