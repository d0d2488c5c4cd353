package backendtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
)

// movingDatasetStaysVisible moves a dataset through all places of the pool while other goroutines call Stat and List.
// Both must always find the dataset.
func movingDatasetStaysVisible(f *fixture) {
	var at atomic.Value // which dataset must be there
	at.Store(uuid.Nil)
	look := func(what string, there func(uuid.UUID) (bool, error)) error {
		id := at.Load().(uuid.UUID)
		if id == uuid.Nil {
			return nil
		}
		found, err := there(id)
		if at.Load() != id { // it was released meanwhile
			return nil
		}
		if err == nil && !found {
			err = errors.New("it does not exist")
		}
		if err != nil {
			return fmt.Errorf("a dataset during a move, %s: %w", what, err)
		}
		return nil
	}
	looks := []func() error{
		func() error {
			return look("by its name", func(id uuid.UUID) (bool,
				error) {
				e, err := f.Pool.Stat(f.Ctx, id)
				return e.ID == id, err
			})
		},
		func() error {
			return look("in the list", func(id uuid.UUID) (bool, error) {
				list, err := f.Pool.List(f.Ctx)
				return slices.ContainsFunc(list, func(e backends.Entry) bool { return e.ID == id }), err
			})
		},
	}
	var stop atomic.Bool
	var looking sync.WaitGroup
	failed := make(chan error, len(looks))
	for _, look := range looks {
		looking.Go(func() {
			for !stop.Load() {
				if err := look(); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	err := f.demoteAndPromote(func(id uuid.UUID) { at.Store(id) })
	stop.Store(true)
	looking.Wait()
	close(failed)
	f.OK(err)
	for err := range failed {
		f.Error(err)
	}
}

// demoteAndPromote makes and commits datasets, and repeatedly demotes each to a copy and promotes it again.
func (f *fixture) demoteAndPromote(is func(uuid.UUID)) error {
	for range 2 {
		d := f.Record()
		s := f.NewSnapshot(d)
		if _, err := f.Pool.Create(f.Ctx, d); err != nil {
			return err
		}
		is(d.ID)
		if err := f.Pool.Commit(f.Ctx, d.ID); err != nil {
			return err
		}
		if f.Can.Delta {
			if err := f.Pool.Snapshot(f.Ctx, s, nil); err != nil {
				return err
			}
			for range 3 {
				if err := errors.Join(f.Copier().Demote(f.Ctx, d.ID, s.ID), f.Copier().Promote(f.Ctx, d.ID, s.ID),
					f.Pool.Commit(f.Ctx, d.ID)); err != nil {
					return err
				}
			}
		}
		is(uuid.Nil)
		if err := f.Pool.Delete(f.Ctx, d.ID); err != nil {
			return err
		}
	}
	return nil
}
