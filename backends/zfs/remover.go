package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// checkUnused fails if a dataset is in use. Package shelf calls it.
func (p *Pool) checkUnused(_ context.Context, f *shelf.Folder) error {
	if f.State == backends.EntryIncoming { // see bindmount.Tracker.CheckRemovable
		return p.checkHere(f.ID)
	}
	return p.checkIdle(f.ID)
}

// removeObjects destroys the ZFS objects of a dataset. If clones of other datasets depend on some of them, it moves the
// remaining objects to the ghosts. No other call can use the dataset meanwhile: its folder is being deleted, or is
// incoming and could not be completed.
func (p *Pool) removeObjects(ctx context.Context, id uuid.UUID) error {
	if p.fs.fuse {
		if err := p.unstage(id); err != nil {
			return err
		}
	}
	root := p.root(id)
	all, err := p.tool.below(ctx, root)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	destroyed, err := p.clear(ctx, all, func(object) bool { return false })
	if err != nil {
		return err
	}
	if len(destroyed) < len(all) {
		if err := p.tool.retryBusy(ctx, "rename", root, p.deletedRoot()+"/"+uuid.NewString()); err != nil {
			return err
		}
	}
	return p.destroyOrigins(ctx, root, destroyed)
}

// clear destroys objects of a tree. It skips an object that Drover did not make, an object that keep selects, and an
// object with a clone or a child. all must be the complete tree. It returns the destroyed objects.
func (p *Pool) clear(ctx context.Context, all []object, keep func(object) bool) (destroyed []object, err error) {
	remaining := slices.Clone(all)
	kept := map[string]bool{}
	for progress := true; progress; {
		progress = false
		for i := len(remaining) - 1; i >= 0; i-- {
			o := remaining[i]
			if kept[o.name] || !p.isOurs(o) || keep(o) || isNeeded(o, remaining) {
				continue
			}
			err := p.tool.retryBusy(ctx, "destroy", o.name)
			switch {
			case err == nil, errors.Is(err, errAbsent):
				remaining, destroyed, progress = slices.Delete(remaining, i, i+1), append(destroyed, o), true
			case errors.Is(err, errHeld), errors.Is(err, errBusy):
				kept[o.name] = true
			default:
				return destroyed, err
			}
		}
	}
	return destroyed, nil
}

// isNeeded reports whether one of others is a clone of o, or a child or snapshot of o.
func isNeeded(o object, others []object) bool {
	return slices.ContainsFunc(others, func(other object) bool {
		return other.origin == o.name || strings.HasPrefix(other.name, o.name+"/") ||
			strings.HasPrefix(other.name, o.name+"@")
	})
}

// isOurs reports whether an object below the pool's filesystem has a name that Drover gives.
func (p *Pool) isOurs(o object) bool {
	fs, snapshot := o.snapshotOf()
	rel, ok := strings.CutPrefix(fs, p.deletedRoot()+"/")
	if !ok {
		rel, ok = strings.CutPrefix(fs, p.top()+"/")
	}
	id, head, hasChild := strings.Cut(rel, "/")
	ok = ok && isID(id) && (!hasChild || isHead(head))
	if snapshot != "" {
		return ok && o.kind == kindSnapshot && hasChild && isSnapshot(snapshot)
	}
	return ok && o.kind == kindFilesystem
}

// release destroys a snapshot whose record was removed. It also destroys the filesystem of the snapshot if it is not a
// head and has no other snapshots. Objects on which clones depend stay.
func (p *Pool) release(ctx context.Context, name string) error {
	fs, _, _ := strings.Cut(name, "@")
	id, head, err := p.dataset(fs)
	if err != nil {
		return err
	}
	currentHead, err := p.currentOf(id)
	if err != nil {
		return err
	}
	o, err := p.tool.object(ctx, fs)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	err = p.tool.zfs(ctx, "destroy", name)
	if err == nil && currentHead != head {
		if err = p.tool.zfs(ctx, "destroy", fs); err == nil {
			return p.destroyOrigins(ctx, "", []object{o})
		}
	}
	if errors.Is(err, errAbsent) || errors.Is(err, errHeld) || errors.Is(err, errBusy) {
		return nil
	}
	return err
}

// currentOf returns the name of a dataset's head, like headName. It does not wait for a claim on the dataset, because
// the caller may hold a claim on another dataset.
func (p *Pool) currentOf(id uuid.UUID) (string, error) {
	root, err := p.Shelf.OpenUnclaimed(id)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return headName(root, id)
}

// destroyOrigins destroys snapshots that were kept only because the clones in destroyed needed them as origins. If an
// origin is in a ghost, destroyOrigins clears the ghost. Otherwise it destroys the origin if no record names it. It
// skips origins in filesystems below the filesystem named within.
func (p *Pool) destroyOrigins(ctx context.Context, within string, destroyed []object) error {
	var errs []error
	for _, o := range destroyed {
		origin := o.origin
		if origin == "" || within != "" && strings.HasPrefix(origin, within+"/") {
			continue
		}
		if rel, ok := strings.CutPrefix(origin, p.deletedRoot()+"/"); ok {
			id, _, _ := strings.Cut(rel, "/")
			_, err := p.clearDeleted(ctx, p.deletedRoot()+"/"+id)
			errs = append(errs, err)
			continue
		}
		if err := p.checkUnrecorded(origin); err != nil {
			continue // it has a record, or Drover did not make it
		}
		errs = append(errs, p.release(ctx, origin))
	}
	return errors.Join(errs...)
}

// checkUnrecorded returns nil if Drover made the snapshot and no record names it. Otherwise it returns an error with
// the reason why the snapshot must stay.
func (p *Pool) checkUnrecorded(name string) error {
	filesystem, snap, _ := strings.Cut(name, "@")
	id, _, err := p.dataset(filesystem)
	if err != nil || !isSnapshot(snap) {
		return fmt.Errorf("%s is not drover's", name)
	}
	text, ofClone := strings.CutPrefix(snap, clonePrefix)
	if ofClone {
		return nil // the origin of a clone of a head never has a record
	}
	root, err := p.Shelf.OpenUnclaimed(id)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = root.Lstat(recordPrefix + strings.TrimPrefix(text, snapPrefix) + recordEnd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s has its record (%v)", name, err)
}

// clearDeleted destroys the objects of a ghost that no clone needs. complete reports whether this call destroyed the
// whole ghost. It is false if the ghost is absent.
func (p *Pool) clearDeleted(ctx context.Context, ghost string) (complete bool, err error) {
	all, err := p.tool.below(ctx, ghost)
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	destroyed, err := p.clear(ctx, all, func(object) bool { return false })
	if err != nil {
		return false, err
	}
	return len(destroyed) == len(all), p.destroyOrigins(ctx, ghost, destroyed)
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	root, err := p.Shelf.Enter() // fail early if the directory belongs to another pool now
	if err != nil {
		return 0, err
	}
	_ = root.Close()
	p.unloadIdle()
	all, err := p.tool.below(ctx, p.top())
	if err != nil {
		return 0, err
	}
	trees := p.trees(all)
	n, err := p.Shelf.Reap(ctx, drop, func(f *shelf.Folder) (int,
		error) {
		return p.tidy(ctx, f, trees[f.ID.String()])
	})
	for name := range trees {
		ghost, ok := strings.CutPrefix(name, "deleted/")
		if !ok || !isID(ghost) || ctx.Err() != nil {
			continue
		}
		complete, eErr := p.clearDeleted(ctx, p.deletedRoot()+"/"+ghost)
		if complete {
			n++
		}
		err = errors.Join(err, eErr)
	}
	return n, err
}

// tidy destroys the remains of a crash in a dataset: temporary files, the record of an unfinished restore, and objects
// that no record names. If a record cannot be read, tidy destroys no ZFS object, because the record may name it.
//
// all was listed before the folder was claimed. That is safe: an object that is missing from the list is newer, and no
// name is used twice.
func (p *Pool) tidy(ctx context.Context, f *shelf.Folder, all []object) (int, error) {
	if f.State == backends.EntryIncoming {
		return 0, nil // a retry of Create or Clone may complete it
	}
	head, err := headName(f.Dir, f.ID)
	if err != nil {
		return 0, nil // List reports the problem
	}
	names, err := f.Names(".")
	if err != nil {
		return 0, err
	}
	used, recorded, sure := map[string]bool{head: true}, map[string]bool{}, true
	var doomed []string
	for _, name := range names {
		id, ok := recordID(name)
		if strings.HasPrefix(name, shelf.Temp) {
			doomed = append(doomed, name)
		}
		if !ok {
			continue
		}
		s, err := readSnapshot(f, id)
		switch {
		case err == nil:
			used[s.FS], recorded[p.snapshotName(f.ID, s.FS, id)] = true, true
		case errors.Is(err, dataset.ErrNotFound):
			doomed = append(doomed, name)
		default:
			sure = false
		}
	}
	for _, name := range doomed {
		if err := f.Remove(name); err != nil {
			return 0, err
		}
	}
	if !sure || len(all) == 0 {
		return len(doomed), nil
	}
	root := p.root(f.ID)
	destroyed, err := p.clear(ctx, all, func(o object) bool {
		fs, snapshot := o.snapshotOf()
		return o.name == root || recorded[o.name] || snapshot == "" && used[strings.TrimPrefix(fs, root+"/")]
	})
	if err != nil {
		return len(doomed), err
	}
	return len(doomed) + len(destroyed), p.destroyOrigins(ctx, root, destroyed)
}

// recordID returns the ID of the snapshot whose record is the file name, and false if name is not that of a record.
func recordID(name string) (uuid.UUID, bool) {
	text, ok := strings.CutSuffix(strings.TrimPrefix(name, recordPrefix), recordEnd)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && name == recordOf(id)
}

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer.
func (p *Pool) Clear(ctx context.Context) (remains string, err error) {
	entries, err := p.List(ctx)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", dataset.Errorf(dataset.ErrConflict, "pool %s contains %s: it is not "+
			"removed", p.name, entries[0].Path)
	}
	if p.vdevs != nil {
		name := zpoolName(p.vdevs.id)
		return fmt.Sprintf("zpool %s stays imported, with an empty pool (drover pool adopt adopts it by one of "+
			"its devices; for another use: zpool destroy %s, then zpool labelclear -f each of "+
			"them)", name, name), p.Close()
	}
	if err := p.unstageAll(); err != nil {
		return "", err
	}
	if err := p.RemoveStorage(ctx); err != nil {
		return "", err
	}
	return "", p.Shelf.Clear()
}

// RemoveStorage implements backends.StorageRemover.
func (p *Pool) RemoveStorage(ctx context.Context) error {
	for _, name := range []string{p.deletedRoot(), p.top()} {
		if err := p.tool.zfs(ctx, "destroy", name); err != nil && !errors.Is(err, errAbsent) {
			return err
		}
	}
	return nil
}
