package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// List implements backends.Pool. It lists the folders with their objects in ZFS, and the objects without a folder.
func (p *Pool) List(ctx context.Context) ([]backends.Entry, error) {
	root, err := p.Shelf.Enter() // fail early if the directory belongs to another pool now
	if err != nil {
		return nil, err
	}
	_ = root.Close()
	all, err := p.tool.below(ctx, p.top())
	if err != nil {
		return nil, err
	}
	if err := p.measure(ctx); err != nil {
		return nil, err
	}
	trees := p.trees(all)
	entries, err := p.Shelf.List(func(f *shelf.Folder,
		e *backends.Entry) {
		p.describe(ctx, f, e, trees[f.ID.String()])
	})
	if err != nil {
		return nil, err
	}
	return append(entries, p.foreignEntries(ctx, trees, entries)...), nil
}

// Stat implements backends.Pool.
func (p *Pool) Stat(ctx context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.Shelf.FindDatasetOrCopy(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.Shelf.Describe(f, func(f *shelf.Folder, e *backends.Entry) { p.describe(ctx, f, e, nil) }), nil
}

// describe adds a dataset's snapshots and their problems to its entry. all is an earlier listing of the ZFS objects. If
// an expected object is not in all, describe lists the objects again, because the object may be newer than the listing.
func (p *Pool) describe(ctx context.Context, f *shelf.Folder, e *backends.Entry, all []object) {
	head, err := headName(f.Dir, f.ID)
	if f.State == backends.EntryCopy && err == nil {
		var c current
		c, err = copyHead(f)
		head = c.FS
		describeCopy(f, e)
	}
	if err != nil {
		shelf.AddProblem(e, err)
	}
	names, err := f.Names(".")
	if err != nil {
		shelf.AddProblem(e, err)
		return
	}
	want := map[string]string{}
	if head != "" {
		want[p.root(f.ID)+"/"+head] = "its filesystem"
	}
	for _, name := range names {
		id, ok := recordID(name)
		if !ok {
			continue
		}
		s, err := readSnapshot(f, id)
		switch {
		case err == nil:
			e.Snapshots = append(e.Snapshots, s.Snapshot)
			want[p.snapshotName(f.ID, s.FS, id)] = "snapshot " + id.String()
		case !errors.Is(err, dataset.ErrNotFound):
			shelf.AddProblem(e, err)
		}
	}
	if len(missingNames(want, all)) == 0 {
		return
	}
	all, err = p.tool.below(ctx, p.root(f.ID))
	if err != nil && !errors.Is(err, errAbsent) {
		shelf.AddProblem(e, err)
		return
	}
	for _, name := range missingNames(want, all) {
		shelf.AddProblem(e, dataset.Errorf(dataset.ErrCorrupt, "%s is missing: zfs has no %s", want[name], name))
	}
}

// missingNames returns the names in want that are not in all, sorted.
func missingNames(want map[string]string, all []object) (names []string) {
	for name := range want {
		if !slices.ContainsFunc(all, func(o object) bool {
			return o.name == name && (o.kind == kindFilesystem || o.kind == kindSnapshot)
		}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// foreignEntries returns entries for the objects below the pool's filesystem that belong to no dataset.
func (p *Pool) foreignEntries(ctx context.Context, trees map[string][]object,
	entries []backends.Entry) []backends.Entry {
	known := map[string]bool{}
	for _, e := range entries {
		known[e.ID.String()] = true
	}
	var found []backends.Entry
	add := func(name, problem string) {
		found = append(found, backends.Entry{State: backends.EntryForeign, Path: name, Problem: problem})
	}
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		tree := trees[name]
		if ghost, ok := strings.CutPrefix(name, "deleted/"); ok && isID(ghost) {
			for _, o := range tree {
				if !p.isOurs(o) {
					add(o.name, "drover did not create it, and it contains the remains of a deleted dataset: "+
						"remove it with zfs destroy if it is not needed")
				}
			}
			continue
		}
		if known[name] {
			continue
		}
		if !isID(name) {
			add(p.top()+"/"+name, "drover did not create an object of that name there")
			continue
		}
		if p.changedSinceListing(ctx, name) {
			continue
		}
		add(p.top()+"/"+name, fmt.Sprintf("the filesystem of a dataset without a record in %s",
			p.Shelf.Path()))
	}
	return found
}

// changedSinceListing reports whether a concurrent call changed a filesystem after the listing: the filesystem was
// destroyed, or its folder was made. Such a filesystem is not foreign, although it has no entry.
func (p *Pool) changedSinceListing(ctx context.Context, name string) bool {
	_, err := p.tool.object(ctx, p.top()+"/"+name)
	if errors.Is(err, errAbsent) {
		return true
	}
	folder, err := p.Shelf.OpenUnclaimed(uuid.MustParse(name))
	if err == nil {
		_ = folder.Close()
	}
	return err == nil
}
