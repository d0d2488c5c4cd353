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
	d := f.Create()
	for i, sync := range []bool{true, false, true, false} {
		d.Volume, d.Epoch, d.State = fmt.Sprint("renamed-", i), d.Epoch+1, dataset.StateTrashed
		d.Labels = map[string]string{"long": strings.Repeat("x", 5000), "step": fmt.Sprint(i)}
		f.Twice(func() error { return f.Pool.WriteRecord(f.Ctx, d, sync) })
		f.CheckState(d, backends.EntryReady)
		f.Open()
		f.CheckState(d, backends.EntryReady)
	}
	s := f.TakeSnapshot(d)
	f.OK(f.Pool.WriteRecord(f.Ctx, d, true))
	f.CheckSnapshots(d.ID, s)
	incoming := f.Record()
	_, err := f.Pool.Create(f.Ctx, incoming)
	f.OK(err)
	incoming.Volume = "renamed"
	f.OK(f.Pool.WriteRecord(f.Ctx, incoming, true))
	f.CheckState(incoming, backends.EntryIncoming)
}

// damagedRecordIsListed overwrites a record. The dataset must be listed with the problem and keep its bytes, and a new
// record must repair it.
func damagedRecordIsListed(f *fixture) {
	d, other := f.Create(), f.Create()
	f.Write(d.ID, "file", "content")
	e, err := f.Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	record := f.recordFile(e.Path, d)
	for _, garbage := range []string{"", "{", "null", "[]", `{"id": "` + uuid.NewString() + `"}`, "\x00\x00\x00"} {
		f.OK(os.WriteFile(record, []byte(garbage), 0o600))
		e := f.Entries(d.ID)
		if len(e) != 1 || e[0].State != backends.EntryReady || e[0].Record != nil || e[0].Problem == "" {
			f.Fatalf("with the record %q the list contains %+v", garbage, e)
		}
		f.Reap(0)
		f.CheckContent(d.ID, "file", "content")
	}
	f.CheckState(other, backends.EntryReady)
	f.OK(f.Pool.WriteRecord(f.Ctx, d, true))
	f.CheckState(d, backends.EntryReady)
}

// recordFile finds the file that holds a dataset's record.
func (f *fixture) recordFile(dir string, d dataset.Dataset) (found string) {
	f.Helper()
	f.OK(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
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

func reapDropsSelectedDatasets(f *fixture) {
	ready, kept, dropped := f.Create(), f.Record(), f.Record()
	s := f.TakeSnapshot(ready)
	for _, d := range []dataset.Dataset{kept, dropped} {
		_, err := f.Pool.Create(f.Ctx, d)
		f.OK(err)
	}
	f.Open()
	f.Reap(0)
	f.CheckState(dropped, backends.EntryIncoming)
	f.Reap(1, dropped.ID, ready.ID) // Reap must not drop a ready dataset
	f.CheckAbsent(dropped.ID)
	f.CheckState(kept, backends.EntryIncoming)
	f.CheckReady(ready, s)
	f.Reap(0, dropped.ID)
	f.Open()
	f.CheckAbsent(dropped.ID)
	f.CheckState(kept, backends.EntryIncoming)
}

// plantForeign makes foreign files in the places of datasets. It returns their paths, and the UUIDs that some of them
// have as their names.
func (f *fixture) plantForeign() (paths []string, ids []uuid.UUID) {
	f.Helper()
	d := f.Create()
	e, err := f.Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	top, among := f.Pool.Info().Path, filepath.Dir(e.Path)
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
	f.OK(os.Mkdir(outside, 0o700))
	f.OK(os.WriteFile(filepath.Join(outside, "record.json"), []byte("{}"), 0o600))
	f.OK(os.WriteFile(paths[0], []byte("notes"), 0o600))
	f.OK(os.Mkdir(paths[1], 0o700))
	f.OK(os.WriteFile(filepath.Join(paths[1], "file"), []byte("precious"), 0o600))
	f.OK(os.Mkdir(paths[2], 0o700))
	f.OK(os.WriteFile(paths[3], []byte("x"), 0o600))
	f.OK(os.Mkdir(paths[4], 0o700))
	f.OK(os.WriteFile(paths[5], []byte("x"), 0o600))
	f.OK(os.Symlink(outside, paths[6]))
	return paths, ids
}

func foreignFilesAreListedAndKept(f *fixture) {
	paths, ids := f.plantForeign()
	check := func(when string) {
		f.Helper()
		list, err := f.Pool.List(f.Ctx)
		f.OK(err)
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
	_, err := f.Pool.Reap(f.Ctx, func(uuid.UUID) bool { return true })
	f.OK(err)
	check("after reaping")
	for _, id := range ids {
		_ = f.Pool.Delete(f.Ctx, id) // may fail, but must not touch anything
		if _, err := f.Pool.Stat(f.Ctx, id); err == nil {
			f.Errorf("%s has a status", id)
		}
		d := f.Record()
		d.ID = id
		if _, err := f.Pool.Create(f.Ctx, d); err == nil {
			f.Errorf("%s was created although a foreign object exists there", id)
		}
		if a, err := f.Pool.Attach(f.Ctx, id, backends.AttachOptions{}); err == nil {
			f.Errorf("%s was attached", id)
			f.OK(a.Release())
		}
	}
	check("after calls")
	f.Open()
	check("after opening again")
}

// symlinksInThePoolAreNotFollowed puts a symlink in the place of a dataset.
func symlinksInThePoolAreNotFollowed(f *fixture) {
	d, other := f.Create(), f.Create()
	f.Write(other.ID, "file", "content")
	e, err := f.Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	aside := f.TempDir()
	o, err := f.Pool.Stat(f.Ctx, other.ID)
	f.OK(err)
	f.OK(os.Rename(e.Path, e.Path+"-aside"))
	for _, to := range []string{o.Path, filepath.Base(o.Path), aside, "/"} {
		f.OK(os.Symlink(to, e.Path))
		if a, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{}); err == nil {
			f.Errorf("a symlink to %s was attached as %+v", to, a.Mount)
			f.OK(a.Release())
		}
		if err := f.Pool.WriteRecord(f.Ctx, d, true); err == nil {
			f.Errorf("a record was written through a symlink to %s", to)
		}
		if err := f.Pool.Snapshot(f.Ctx, f.NewSnapshot(d), nil); err == nil {
			f.Errorf("a snapshot was taken through a symlink to %s", to)
		}
		_ = f.Pool.Delete(f.Ctx, d.ID)
		if _, err := os.Lstat(e.Path); err != nil {
			f.Errorf("a symlink to %s was removed: %v", to, err)
		}
		f.OK(errors.Join(os.RemoveAll(e.Path)))
	}
	f.OK(os.Rename(e.Path+"-aside", e.Path))
	f.CheckState(d, backends.EntryReady)
	f.CheckState(other, backends.EntryReady)
	f.CheckContent(other.ID, "file", "content")
}

// concurrentCalls runs many callers, each with its own datasets, while others list and reap. No dataset may be missing
// from a list.
func concurrentCalls(f *fixture) {
	stays := f.Create()
	const callers = 12
	var wg sync.WaitGroup
	failed := make(chan error, 2*callers)
	for range callers {
		wg.Go(func() {
			if err := f.createAndDestroy(); err != nil {
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
			list, err := f.Pool.List(f.Ctx)
			found := slices.ContainsFunc(list,
				func(e backends.Entry) bool { return e.ID == stays.ID && e.Problem == "" })
			if err == nil && !found {
				err = errors.New("a dataset is missing from a list")
			}
			if err == nil {
				_, err = f.Pool.Reap(f.Ctx, func(uuid.UUID) bool { return false })
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
	list, err := f.Pool.List(f.Ctx)
	f.OK(err)
	if len(list) != 1 {
		f.Errorf("the list contains %d entries, want 1: %+v", len(list), list)
	}
}

// createAndDestroy creates a dataset, takes a snapshot, clones it and destroys both.
func (f *fixture) createAndDestroy() error {
	d, c := f.Record(), f.Record()
	s := f.NewSnapshot(d)
	_, err := f.Pool.Create(f.Ctx, d)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return f.Pool.Commit(f.Ctx, d.ID) },
		func() error { return f.Pool.Snapshot(f.Ctx, s, nil) },
		func() error { _, err := f.Pool.Clone(f.Ctx, c, f.Source(s), nil); return err },
		func() error { return f.Pool.Commit(f.Ctx, c.ID) },
		func() error { return f.Pool.WriteRecord(f.Ctx, c, false) },
		func() error { _, err := f.Pool.Stat(f.Ctx, c.ID); return err },
		func() error { return f.Pool.Delete(f.Ctx, c.ID) },
		func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID) },
		func() error { return f.Pool.Delete(f.Ctx, d.ID) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}
