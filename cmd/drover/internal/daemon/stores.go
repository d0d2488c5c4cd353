package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

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

// Unserved is a store that a command has opened itself, without a server, to read or fill all of it. No other process
// of Drover uses the root meanwhile.
type Unserved struct {
	store.Store
	store.Raiser
	Kind  string // bolt or consul
	Where string // the place of the store in words: the file, or Consul and the prefix there

	unlock []func() error
}

// Close closes the store and unlocks the root.
func (u Unserved) Close() error {
	err := u.Store.Close()
	for _, unlock := range u.unlock {
		err = errors.Join(err, unlock())
	}
	return err
}

// OpenUnserved opens the store that the options name. If fill is set, it creates a missing file. Otherwise it fails
// with dataset.ErrNotFound if the store is a file that does not exist. It asks a store in Consul only if fill is set.
// It fails with dataset.ErrCorrupt if the file is damaged, and leaves it in place. It fails with dataset.ErrInUse while
// a drover uses the root. The caller must close the store.
func OpenUnserved(ctx context.Context, o Options, fill bool) (u Unserved, err error) {
	if fill {
		if err := os.MkdirAll(o.Root, 0o755); err != nil {
			return u, fmt.Errorf("create %s: %w", o.Root, err)
		}
	}
	defer func() {
		if err != nil {
			for _, unlock := range u.unlock {
				err = errors.Join(err, unlock())
			}
		}
	}()
	for _, name := range []string{hostLock, controlLock} {
		unlock, err := lockRoot(o.Root, name)
		if errors.Is(err, fs.ErrNotExist) {
			break // no drover has ever used this root
		}
		if err != nil {
			return u, err
		}
		u.unlock = append(u.unlock, unlock)
	}
	if o.Consul != nil {
		err = u.openConsul(ctx, o, fill)
	} else {
		err = u.openFile(ctx, o, fill)
	}
	return u, err
}

func (u *Unserved) openConsul(ctx context.Context, o Options, fill bool) error {
	st, err := newConsul(o, clock.System{})
	if err != nil {
		return err
	}
	if fill {
		if err := st.Check(ctx); err != nil {
			return errors.Join(err, st.Close())
		}
	}
	u.Store, u.Raiser, u.Kind = st, st, "consul"
	u.Where = fmt.Sprintf("prefix %s of Consul at %s", o.Consul.Prefix, strings.Join(o.Consul.Addresses, ", "))
	return nil
}

func (u *Unserved) openFile(ctx context.Context, o Options, fill bool) error {
	path := filepath.Join(o.Root, storeFile)
	if !fill {
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return dataset.Errorf(dataset.ErrNotFound,
				"no store at %s (check --root; if the store is in Consul, pass the --config that names it)", path)
		}
		if err != nil {
			return err
		}
	}
	st, err := bolt.Open(ctx, path, bolt.Options{Clock: clock.System{}})
	if err != nil {
		return err
	}
	u.Store, u.Raiser, u.Kind, u.Where = st, st, "bolt", "the file "+path
	return nil
}

// timedStore times the requests to a store, except those of Watch, Session and End. A watch lasts until something
// changes, so its duration has no meaning.
type timedStore struct {
	store.Store
	kind     string
	recorder *Recorder
}

// timedReporter is a timedStore of a store that knows the health of its servers.
type timedReporter struct {
	timedStore
	store.HealthReporter
}

// TimeStore returns a store that records how long its requests take. kind is the kind of the store, such as bolt.
func TimeStore(st store.Store, kind string, r *Recorder) store.Store {
	timed := timedStore{st, kind, r}
	if reporter, ok := st.(store.HealthReporter); ok {
		return timedReporter{timed, reporter}
	}
	return timed
}

func (s timedStore) record(operation string, began time.Time, err error) {
	s.recorder.stores.WithLabelValues(operation, outcome(err), s.kind).Observe(time.Since(began).Seconds())
}

// Get implements store.Store.
func (s timedStore) Get(ctx context.Context, key string) (e store.Entry, err error) {
	defer func(began time.Time) { s.record("get", began, err) }(time.Now())
	return s.Store.Get(ctx, key)
}

// GetMany implements store.Store.
func (s timedStore) GetMany(ctx context.Context, keys []string) (all []store.Entry, err error) {
	defer func(began time.Time) { s.record("get_many", began, err) }(time.Now())
	return s.Store.GetMany(ctx, keys)
}

// List implements store.Store.
func (s timedStore) List(ctx context.Context, prefix, after string, limit int) (all []store.Entry, err error) {
	defer func(began time.Time) { s.record("list", began, err) }(time.Now())
	return s.Store.List(ctx, prefix, after, limit)
}

// Txn implements store.Store.
func (s timedStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (index uint64,
	err error) {
	defer func(began time.Time) { s.record("transaction", began, err) }(time.Now())
	return s.Store.Txn(ctx, checks, writes)
}

// Renew implements store.Store.
func (s timedStore) Renew(ctx context.Context, id string) (err error) {
	defer func(began time.Time) { s.record("renew", began, err) }(time.Now())
	return s.Store.Renew(ctx, id)
}

// Figure is one metric of a store, with the function that reads it.
type Figure struct {
	family *Family
	read   func() float64
}

// OfBolt returns the metrics of a store in a file.
func OfBolt(st *bolt.Store) []Figure {
	return []Figure{
		{storeCommits, func() float64 { return float64(st.Stats().Commits) }},
		{storeTxns, func() float64 { return float64(st.Stats().Txns) }},
		{storeConflicts, func() float64 { return float64(st.Stats().Conflicts) }},
		{storeEntries, func() float64 { return float64(st.Stats().Entries) }},
		{storeReserve, func() float64 { return float64(st.Stats().ReserveBytes) }},
	}
}

// OfConsul returns the metrics of a store in Consul.
func OfConsul(st *consul.Store) []Figure {
	return []Figure{
		{storeTxns, func() float64 { return float64(st.Stats().Txns) }},
		{storeConflicts, func() float64 { return float64(st.Stats().Conflicts) }},
		{storeUnknown, func() float64 { return float64(st.Stats().Unknown) }},
		{storeRequests, func() float64 { return float64(st.Stats().Requests) }},
		{storeWakes, func() float64 { return float64(st.Stats().Wakes) }},
	}
}
