package shelf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// Delete takes a dataset away, ready or incoming: first out of sight, durably,
// then its bytes. Unused is asked before anything happens, with the path of the
// folder. One that is absent is fine; a folder that holds nothing of a dataset
// is dataset.ErrCorrupt and stays. When ctx ends while the bytes go, the rest is
// left for Reap, without an error.
func (s *Shelf) Delete(ctx context.Context, id uuid.UUID, unused func(folder string) error) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	defer s.claims.Use(id)()
	f, err := s.find(root, id)
	if errors.Is(err, dataset.ErrNotFound) {
		return s.deleteAgain(ctx, root, id)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unused(s.PathOf(f)); err != nil {
		return err
	}
	gone, err := s.hide(root, areaOf(f.State), id)
	if err != nil {
		return err
	}
	return s.remove(ctx, root, gone)
}

// deleteAgain finishes an earlier deletion, which may have been interrupted before its flush or in the middle.
func (s *Shelf) deleteAgain(ctx context.Context, root *os.Root, id uuid.UUID) error {
	names, err := ReadNames(root, deletingArea)
	if err != nil {
		return err
	}
	for _, area := range s.areas() {
		if err := s.syncArea(root, area); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range names {
		if gone, ok := parseName(deletingArea, name); ok && gone == id {
			errs = append(errs, s.remove(ctx, root, name))
		}
	}
	return errors.Join(errs...)
}

// hide moves a folder to the deleting ones and returns its name there.
func (s *Shelf) hide(root *os.Root, area string, id uuid.UUID) (string, error) {
	gone := id.String()
	for n := 1; ; n++ {
		_, err := root.Lstat(filepath.Join(deletingArea, gone))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", err
		}
		gone = fmt.Sprintf("%s.%d", id, n)
	}
	if err := root.Rename(filepath.Join(area, id.String()), filepath.Join(deletingArea, gone)); err != nil {
		return "", err
	}
	return gone, errors.Join(s.syncArea(root, deletingArea), s.syncArea(root, area))
}

// remove removes a folder that is out of sight.
func (s *Shelf) remove(ctx context.Context, root *os.Root, gone string) error {
	err := s.outside(ctx, gone)
	if err == nil {
		err = s.destroy(ctx, root, deletingArea, gone)
	}
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("dataset %s is gone, but not all of its bytes: %w", gone, err)
	}
	return nil
}

// destroy removes a name in an area with all below it; one that is absent is fine.
func (s *Shelf) destroy(ctx context.Context, root *os.Root, area, name string) error {
	dir, err := root.Open(area)
	if err != nil {
		return err
	}
	defer dir.Close()
	if s.Destroy != nil {
		return s.Destroy(ctx, dir, name)
	}
	return tree.Remove(ctx, dir, name)
}

// outside removes the parts that a hidden folder has elsewhere, unless a dataset of that ID was made again
// since: then they belong to that one.
func (s *Shelf) outside(ctx context.Context, gone string) error {
	id, ok := parseName(deletingArea, gone)
	if s.Outside == nil || !ok {
		return nil
	}
	again, err := s.Glance(id)
	if err == nil {
		return again.Close()
	}
	if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	return s.Outside(ctx, id)
}

// Reap removes the datasets that are being deleted, the incoming datasets that drop selects, and temporary
// files; tidy removes those of the backend in a folder and returns how many. It leaves the datasets alone
// that a running call uses. It returns how many things it removed.
func (s *Shelf) Reap(ctx context.Context, drop func(uuid.UUID) bool, tidy func(*Folder) (int, error)) (int, error) {
	root, err := s.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	count := 0
	var errs []error
	s.marker.Lock()
	if _, err := root.Lstat(Temp + markerName); err == nil {
		count++
		errs = append(errs, root.Remove(Temp+markerName))
	}
	s.marker.Unlock()
	for _, area := range s.areas() {
		names, err := ReadNames(root, area)
		errs = append(errs, err)
		for _, name := range names {
			if ctx.Err() != nil {
				return count, errors.Join(append(errs, ctx.Err())...)
			}
			n, err := s.reapOne(ctx, root, area, name, drop, tidy)
			count += n
			errs = append(errs, err)
		}
	}
	return count, errors.Join(errs...)
}

func (s *Shelf) reapOne(ctx context.Context, root *os.Root, area, name string, drop func(uuid.UUID) bool,
	tidy func(*Folder) (int, error)) (int, error) {
	id, ok := parseName(area, name)
	if !ok {
		return 0, nil
	}
	done, ok := s.claims.Reap(id)
	if !ok {
		return 0, nil
	}
	defer done()
	if info, err := root.Lstat(filepath.Join(area, name)); err != nil || !info.IsDir() {
		return 0, nil
	}
	if area == incomingArea && drop(id) {
		var err error
		if name, err = s.hide(root, area, id); err != nil {
			return 0, err
		}
		area = deletingArea
	}
	if area == deletingArea {
		if err := s.remove(ctx, root, name); err != nil || ctx.Err() != nil {
			return 0, err
		}
		return 1, nil
	}
	return s.tidy(root, area, id, tidy)
}

func (s *Shelf) tidy(root *os.Root, area string, id uuid.UUID, tidy func(*Folder) (int, error)) (int, error) {
	f, err := s.open(root, area, id, func() {})
	if err != nil {
		return 0, nil // foreign: List says so
	}
	defer f.Close()
	if area == copiesArea && f.begun() {
		return 1, s.destroy(context.Background(), root, area, id.String())
	}
	n, err := tidy(f)
	if _, lErr := f.Lstat(Temp + recordName); lErr == nil {
		n++
		err = errors.Join(err, f.Remove(Temp+recordName))
	}
	return n, err
}

// parseName returns the dataset of a name in an area.
func parseName(area, name string) (uuid.UUID, bool) {
	if area == deletingArea {
		name, _, _ = strings.Cut(name, ".")
	}
	id, err := uuid.Parse(name)
	return id, err == nil && id.String() == name
}
