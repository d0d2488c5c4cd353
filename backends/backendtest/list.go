package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

func recordsAreKept(f *fixture) {
	d := f.create()
	for i, sync := range []bool{true, false, true, false} {
		d.Volume, d.Epoch, d.State = fmt.Sprint("renamed-", i), d.Epoch+1, dataset.StateTrashed
		d.Labels = map[string]string{"long": strings.Repeat("x", 5000), "step": fmt.Sprint(i)}
		f.twice(func() error { return f.pool.WriteRecord(f.ctx, d, sync) })
		f.inState(d, backends.EntryReady)
		f.open()
		f.inState(d, backends.EntryReady)
	}
	s := f.take(d)
	f.ok(f.pool.WriteRecord(f.ctx, d, true))
	f.hasSnapshots(d.ID, s)
	incoming := f.record()
	_, err := f.pool.Create(f.ctx, incoming)
	f.ok(err)
	incoming.Volume = "renamed"
	f.ok(f.pool.WriteRecord(f.ctx, incoming, true))
	f.inState(incoming, backends.EntryIncoming)
}

// damagedRecordIsListed overwrites a record. The dataset must be listed with the problem and keep its bytes, and a new
// record must repair it.
func damagedRecordIsListed(f *fixture) {
	d, other := f.create(), f.create()
	f.write(d.ID, "file", "content")
	e, err := f.pool.Stat(f.ctx, d.ID)
	f.ok(err)
	record := f.recordFile(e.Path, d)
	for _, garbage := range []string{"", "{", "null", "[]", `{"id": "` + uuid.NewString() + `"}`, "\x00\x00\x00"} {
		f.ok(os.WriteFile(record, []byte(garbage), 0o600))
		e := f.entries(d.ID)
		if len(e) != 1 || e[0].State != backends.EntryReady || e[0].Record != nil || e[0].Problem == "" {
			f.Fatalf("with the record %q the list contains %+v", garbage, e)
		}
		f.reap(0)
		f.holds(d.ID, "file", "content")
	}
	f.inState(other, backends.EntryReady)
	f.ok(f.pool.WriteRecord(f.ctx, d, true))
	f.inState(d, backends.EntryReady)
}

// recordFile finds the file that holds a dataset's record.
func (f *fixture) recordFile(dir string, d dataset.Dataset) (found string) {
	f.Helper()
	f.ok(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.HasSuffix(path, ".json") {
			return err
		}
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(d.Request.String())) {
			found = path
		}
		return nil
	}))
	if found == "" {
		f.Fatalf("no record below %s", dir)
	}
	return found
}

func reapDropsWhatItIsTold(f *fixture) {
	ready, kept, dropped := f.create(), f.record(), f.record()
	s := f.take(ready)
	for _, d := range []dataset.Dataset{kept, dropped} {
		_, err := f.pool.Create(f.ctx, d)
		f.ok(err)
	}
	f.open()
	f.reap(0)
	f.inState(dropped, backends.EntryIncoming)
	f.reap(1, dropped.ID, ready.ID) // Reap must not drop a ready dataset
	f.absent(dropped.ID)
	f.inState(kept, backends.EntryIncoming)
	f.inStateWith(ready, s)
	f.reap(0, dropped.ID)
	f.open()
	f.absent(dropped.ID)
	f.inState(kept, backends.EntryIncoming)
}

// plantForeign puts foreign files where datasets belong. It returns their paths, and the IDs that some of them pretend
// to have.
func (f *fixture) plantForeign() (paths []string, ids []uuid.UUID) {
	f.Helper()
	d := f.create()
	e, err := f.pool.Stat(f.ctx, d.ID)
	f.ok(err)
	top, among := f.pool.Info().Path, filepath.Dir(e.Path)
	for range 3 {
		ids = append(ids, uuid.New())
	}
	paths = []string{
		filepath.Join(top, "notes.txt"), filepath.Join(top, "precious"),
		filepath.Join(among, "not a uuid\n"), filepath.Join(among, strings.ToUpper(uuid.NewString())+"x"),
		filepath.Join(among, ids[0].String()), filepath.Join(among, ids[1].String()),
		filepath.Join(among, ids[2].String()),
	}
	outside := filepath.Join(f.TempDir(), "outside")
	f.ok(os.Mkdir(outside, 0o700))
	f.ok(os.WriteFile(filepath.Join(outside, "dataset.json"), []byte("{}"), 0o600))
	f.ok(os.WriteFile(paths[0], []byte("notes"), 0o600))
	f.ok(os.Mkdir(paths[1], 0o700))
	f.ok(os.WriteFile(filepath.Join(paths[1], "file"), []byte("precious"), 0o600))
	f.ok(os.Mkdir(paths[2], 0o700))
	f.ok(os.WriteFile(paths[3], []byte("x"), 0o600))
	f.ok(os.Mkdir(paths[4], 0o700))
	f.ok(os.WriteFile(paths[5], []byte("x"), 0o600))
	f.ok(os.Symlink(outside, paths[6]))
	return paths, ids
}

func foreignThingsAreListedAndKept(f *fixture) {
	paths, ids := f.plantForeign()
	check := func(when string) {
		f.Helper()
		list, err := f.pool.List(f.ctx)
		f.ok(err)
		for _, path := range paths {
			if _, err := os.Lstat(path); err != nil {
				f.Fatalf("%s: %v", when, err)
			}
			i := slices.IndexFunc(list, func(e backends.Entry) bool { return e.Path == path })
			if i < 0 {
				f.Errorf("%s: %q is not listed", when, path)
			} else if e := list[i]; e.State != backends.EntryForeign || e.Problem == "" || e.ID != uuid.Nil ||
				strings.Contains(e.Problem, "\n") {
				f.Errorf("%s: listed as %+v", when, e)
			}
		}
	}
	check("at first")
	_, err := f.pool.Reap(f.ctx, func(uuid.UUID) bool { return true })
	f.ok(err)
	check("after reaping")
	for _, id := range ids {
		_ = f.pool.Delete(f.ctx, id) // may fail, but must not touch anything
		if _, err := f.pool.Stat(f.ctx, id); err == nil {
			f.Errorf("%s has a status", id)
		}
		d := f.record()
		d.ID = id
		if _, err := f.pool.Create(f.ctx, d); err == nil {
			f.Errorf("%s was created although a foreign object exists there", id)
		}
		if a, err := f.pool.Attach(f.ctx, id, backends.AttachOptions{}); err == nil {
			f.Errorf("%s was attached", id)
			f.ok(a.Release())
		}
	}
	check("after calls")
	f.open()
	check("after opening again")
}

// symlinksInThePoolAreNotFollowed puts a symlink in the place of a dataset.
func symlinksInThePoolAreNotFollowed(f *fixture) {
	d, other := f.create(), f.create()
	f.write(other.ID, "file", "content")
	e, err := f.pool.Stat(f.ctx, d.ID)
	f.ok(err)
	aside := f.TempDir()
	o, err := f.pool.Stat(f.ctx, other.ID)
	f.ok(err)
	f.ok(os.Rename(e.Path, e.Path+"-aside"))
	for _, to := range []string{o.Path, filepath.Base(o.Path), aside, "/"} {
		f.ok(os.Symlink(to, e.Path))
		if a, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{}); err == nil {
			f.Errorf("a symlink to %s was attached as %+v", to, a.Mount)
			f.ok(a.Release())
		}
		if err := f.pool.WriteRecord(f.ctx, d, true); err == nil {
			f.Errorf("a record was written through a symlink to %s", to)
		}
		if err := f.pool.Snapshot(f.ctx, f.snapshot(d), nil); err == nil {
			f.Errorf("a snapshot was taken through a symlink to %s", to)
		}
		_ = f.pool.Delete(f.ctx, d.ID)
		if _, err := os.Lstat(e.Path); err != nil {
			f.Errorf("a symlink to %s was removed: %v", to, err)
		}
		f.ok(errors.Join(os.RemoveAll(e.Path)))
	}
	f.ok(os.Rename(e.Path+"-aside", e.Path))
	f.inState(d, backends.EntryReady)
	f.inState(other, backends.EntryReady)
	f.holds(other.ID, "file", "content")
}

// concurrentCalls runs many callers, each with its own datasets, while others list and reap. No dataset may be missing
// from a list.
func concurrentCalls(f *fixture) {
	stays := f.create()
	const callers = 12
	var wg sync.WaitGroup
	failed := make(chan error, 2*callers)
	for range callers {
		wg.Go(func() {
			if err := f.life(); err != nil {
				failed <- err
			}
		})
	}
	stop, watching := make(chan struct{}), sync.WaitGroup{}
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			list, err := f.pool.List(f.ctx)
			found := slices.ContainsFunc(list,
				func(e backends.Entry) bool { return e.ID == stays.ID && e.Problem == "" })
			if err == nil && !found {
				err = errors.New("a dataset is missing from a list")
			}
			if err == nil {
				_, err = f.pool.Reap(f.ctx, func(uuid.UUID) bool { return false })
			}
			if err != nil {
				failed <- fmt.Errorf("concurrently: %w", err)
				return
			}
		}
	})
	wg.Wait()
	close(stop)
	watching.Wait()
	close(failed)
	for err := range failed {
		f.Error(err)
	}
	list, err := f.pool.List(f.ctx)
	f.ok(err)
	if len(list) != 1 {
		f.Errorf("the list contains %d entries, want 1: %+v", len(list), list)
	}
}

// life creates a dataset, takes a snapshot, clones it and destroys both.
func (f *fixture) life() error {
	d, c := f.record(), f.record()
	s := f.snapshot(d)
	_, err := f.pool.Create(f.ctx, d)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return f.pool.Commit(f.ctx, d.ID) },
		func() error { return f.pool.Snapshot(f.ctx, s, nil) },
		func() error { _, err := f.pool.Clone(f.ctx, c, f.source(s), nil); return err },
		func() error { return f.pool.Commit(f.ctx, c.ID) },
		func() error { return f.pool.WriteRecord(f.ctx, c, false) },
		func() error { _, err := f.pool.Stat(f.ctx, c.ID); return err },
		func() error { return f.pool.Delete(f.ctx, c.ID) },
		func() error { return f.pool.DeleteSnapshot(f.ctx, d.ID, s.ID) },
		func() error { return f.pool.Delete(f.ctx, d.ID) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}
