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

// remover destroys the ZFS objects of deleted datasets and snapshots. An object on which a clone depends stays until
// the clone is deleted. A deleted dataset with such an object becomes a ghost: a filesystem below storage.deletedRoot.
type remover struct {
	*storage
	attachments *attachments
}

// Delete implements backends.Pool.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id)
}

// checkUnused fails if a dataset is in use. Package shelf calls it.
func (p *Pool) checkUnused(_ context.Context, f *shelf.Folder) error {
	if f.State == backends.EntryIncoming { // see bindmount.Tracker.CheckRemovable
		return p.attachments.checkHere(f.ID)
	}
	return p.attachments.checkIdle(f.ID)
}

// removeObjects destroys the ZFS objects of a dataset. If clones of other datasets depend on some of them, it moves the
// remaining objects to the ghosts. No other call can use the dataset meanwhile: its folder is being deleted, or is
// incoming and could not be completed.
func (r *remover) removeObjects(ctx context.Context, id uuid.UUID) error {
	if r.fs.fuse {
		if err := r.attachments.unstage(id); err != nil {
			return err
		}
	}
	root := r.root(id)
	all, err := r.tool.below(ctx, root)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	destroyed, err := r.clear(ctx, all, func(object) bool { return false })
	if err != nil {
		return err
	}
	if len(destroyed) < len(all) {
		if err := r.tool.retryBusy(ctx, "rename", root, r.deletedRoot()+"/"+uuid.NewString()); err != nil {
			return err
		}
	}
	return r.destroyOrigins(ctx, root, destroyed)
}

// clear destroys objects of a tree. It skips an object that Drover did not make, an object that keep selects, and an
// object with a clone or a child. all must be the complete tree. It returns the destroyed objects.
func (r *remover) clear(ctx context.Context, all []object, keep func(object) bool) (destroyed []object, err error) {
	remaining := slices.Clone(all)
	kept := map[string]bool{}
	for progress := true; progress; {
		progress = false
		for i := len(remaining) - 1; i >= 0; i-- {
			o := remaining[i]
			if kept[o.name] || !r.isOurs(o) || keep(o) || isNeeded(o, remaining) {
				continue
			}
			err := r.tool.retryBusy(ctx, "destroy", o.name)
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
func (r *remover) isOurs(o object) bool {
	fs, snapshot := o.snapshotOf()
	rel, ok := strings.CutPrefix(fs, r.deletedRoot()+"/")
	if !ok {
		rel, ok = strings.CutPrefix(fs, r.top()+"/")
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
func (r *remover) release(ctx context.Context, name string) error {
	fs, _, _ := strings.Cut(name, "@")
	id, head, err := r.dataset(fs)
	if err != nil {
		return err
	}
	currentHead, err := r.currentOf(id)
	if err != nil {
		return err
	}
	o, err := r.tool.object(ctx, fs)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	err = r.tool.zfs(ctx, "destroy", name)
	if err == nil && currentHead != head {
		if err = r.tool.zfs(ctx, "destroy", fs); err == nil {
			return r.destroyOrigins(ctx, "", []object{o})
		}
	}
	if errors.Is(err, errAbsent) || errors.Is(err, errHeld) || errors.Is(err, errBusy) {
		return nil
	}
	return err
}

// currentOf returns the name of a dataset's head, like headName. It does not wait for a claim on the dataset, because
// the caller may hold a claim on another dataset.
func (r *remover) currentOf(id uuid.UUID) (string, error) {
	root, err := r.shelf.OpenUnclaimed(id)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return headName(root, id)
}

// destroyOrigins destroys snapshots that were kept only because the clones in destroyed needed them as origins. If an
// origin is in a ghost, destroyOrigins clears the ghost. Otherwise it destroys the origin if no record names it. It
// skips origins in filesystems below the filesystem named within.
func (r *remover) destroyOrigins(ctx context.Context, within string, destroyed []object) error {
	var errs []error
	for _, o := range destroyed {
		origin := o.origin
		if origin == "" || within != "" && strings.HasPrefix(origin, within+"/") {
			continue
		}
		if rel, ok := strings.CutPrefix(origin, r.deletedRoot()+"/"); ok {
			id, _, _ := strings.Cut(rel, "/")
			_, err := r.clearDeleted(ctx, r.deletedRoot()+"/"+id)
			errs = append(errs, err)
			continue
		}
		if err := r.checkUnrecorded(origin); err != nil {
			continue // it has a record, or Drover did not make it
		}
		errs = append(errs, r.release(ctx, origin))
	}
	return errors.Join(errs...)
}

// checkUnrecorded returns nil if Drover made the snapshot and no record names it. Otherwise it returns an error with
// the reason why the snapshot must stay.
func (r *remover) checkUnrecorded(name string) error {
	filesystem, snap, _ := strings.Cut(name, "@")
	id, _, err := r.dataset(filesystem)
	if err != nil || !isSnapshot(snap) {
		return fmt.Errorf("%s is not drover's", name)
	}
	text, ofClone := strings.CutPrefix(snap, clonePrefix)
	if ofClone {
		return nil // the origin of a clone of a head never has a record
	}
	root, err := r.shelf.OpenUnclaimed(id)
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
func (r *remover) clearDeleted(ctx context.Context, ghost string) (complete bool, err error) {
	all, err := r.tool.below(ctx, ghost)
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	destroyed, err := r.clear(ctx, all, func(object) bool { return false })
	if err != nil {
		return false, err
	}
	return len(destroyed) == len(all), r.destroyOrigins(ctx, ghost, destroyed)
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	root, err := p.shelf.Enter() // fail early if the directory belongs to another pool now
	if err != nil {
		return 0, err
	}
	_ = root.Close()
	p.keys.unloadIdle()
	all, err := p.tool.below(ctx, p.top())
	if err != nil {
		return 0, err
	}
	trees := p.trees(all)
	n, err := p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int,
		error) {
		return p.remover.tidy(ctx, f, trees[f.ID.String()])
	})
	for name := range trees {
		ghost, ok := strings.CutPrefix(name, "deleted/")
		if !ok || !isID(ghost) || ctx.Err() != nil {
			continue
		}
		complete, eErr := p.remover.clearDeleted(ctx, p.deletedRoot()+"/"+ghost)
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
func (r *remover) tidy(ctx context.Context, f *shelf.Folder, all []object) (int, error) {
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
			used[s.FS], recorded[r.snapshotName(f.ID, s.FS, id)] = true, true
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
	root := r.root(f.ID)
	destroyed, err := r.clear(ctx, all, func(o object) bool {
		fs, snapshot := o.snapshotOf()
		return o.name == root || recorded[o.name] || snapshot == "" && used[strings.TrimPrefix(fs, root+"/")]
	})
	if err != nil {
		return len(doomed), err
	}
	return len(doomed) + len(destroyed), r.destroyOrigins(ctx, root, destroyed)
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
	if err := p.attachments.unstageAll(); err != nil {
		return "", err
	}
	if err := p.RemoveStorage(ctx); err != nil {
		return "", err
	}
	return "", p.shelf.Clear()
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
