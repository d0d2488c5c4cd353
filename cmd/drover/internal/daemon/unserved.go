package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

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
