// Package segments keeps the image of a dataset as segments, for backups, and makes an image of segments. Package loop
// uses it to implement backends.Imager.
//
// The segments of a dataset are in a folder of the pool. Each is a file that shares its blocks with the image. The
// file base beside them is a clone of the image that they were made from. Update compares the next image with base, and
// replaces only the segments that differ: see [reflink.Changed] for why this is sound. None of these files is ever
// written to.
//
// Update removes base before it changes a segment, and makes it again after all segments are on the disk. Otherwise a
// segment that was changed and then had its former content again would keep the changed content, because base would be
// older than it. So after a crash, and only then, all segments are made again.
//
// A Folder has no lock: the caller prevents concurrent calls.
package segments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// The names in the folder of a dataset.
const (
	parts    = "parts" // the segments, at the paths of backends.SegmentPath
	base     = "base"  // a clone of the image that they were made from
	newBase  = "base.new"
	newEntry = ".new" // suffix of a segment that is not complete
)

// workers is how many segments are made at a time. Most of the time goes to fsync.
const workers = 8

// Folder is the folder with the segments of one dataset.
type Folder struct {
	root *os.Root
	step func(string) // a hook of tests, called between two changes
}

// NewFolder returns the Folder with the given root, which the caller closes.
func NewFolder(root *os.Root, step func(string)) *Folder { return &Folder{root: root, step: step} }

// Parts is the path of the segments below the folder. Base is the path of base: a caller that removes the folder
// must remove base first.
const (
	Parts = parts
	Base  = base
)

// Update brings the segments up to date with an image, as backends.Imager describes. It returns how many segments the
// image has, and how many of them were made or removed.
func (f *Folder) Update(ctx context.Context, image *os.File) (count int64, changed int, err error) {
	if err := image.Sync(); err != nil { // delayed blocks have no address yet
		return 0, 0, err
	}
	info, err := image.Stat()
	if err != nil {
		return 0, 0, err
	}
	length := info.Size()
	data, err := reflink.Data(image)
	if err != nil {
		return 0, 0, err
	}
	exists := indexes(data)
	stale, err := f.stale(image, length)
	if err != nil {
		return 0, 0, err
	}
	if err := f.forgetBase(); err != nil {
		return 0, 0, err
	}
	f.step("segments.begun")
	if stale == nil { // nothing is known about the present segments
		if err := f.root.RemoveAll(parts); err != nil {
			return 0, 0, err
		}
		stale = exists
	}
	if err := f.replace(ctx, image, length, stale, exists); err != nil {
		return 0, 0, err
	}
	f.step("segments.replaced")
	return int64(len(exists)), len(stale), f.keepBase(image)
}

// indexes returns the segments that ranges touch, in order.
func indexes(ranges []reflink.Range) (list []int64) {
	for _, r := range ranges {
		if r.Length <= 0 {
			continue
		}
		for i := r.Offset / backends.SegmentSize; i <= (r.Offset+r.Length-1)/backends.SegmentSize; i++ {
			if len(list) == 0 || list[len(list)-1] != i {
				list = append(list, i)
			}
		}
	}
	return list
}

// stale returns the segments in which an image differs from base, in order. It returns nil if there is no base, and an
// empty list if none differs.
func (f *Folder) stale(image *os.File, length int64) ([]int64, error) {
	// Without the folder of the segments, base says nothing: a missing segment counts as a hole.
	_, err := f.root.Lstat(parts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	old, err := f.root.Open(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer old.Close()
	info, err := old.Stat()
	if err != nil {
		return nil, err
	}
	ranges, err := reflink.Changed(old, image)
	if err != nil {
		return nil, err
	}
	list := indexes(ranges)
	if was := info.Size(); was != length { // the last segment of the shorter one has another length, and others end
		for i := min(was, length) / backends.SegmentSize; i*backends.SegmentSize < max(was, length); i++ {
			list = append(list, i)
		}
		slices.Sort(list)
	}
	return append([]int64{}, slices.Compact(list)...), nil
}

// forgetBase removes base, so that the next Update makes all segments if this one does not end.
func (f *Folder) forgetBase() error {
	for _, name := range []string{base, newBase} {
		if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return f.sync(".")
}

// keepBase makes base a clone of the image. All segments are on the disk.
func (f *Folder) keepBase(image *os.File) (err error) {
	to, err := f.root.OpenFile(newBase, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(reflink.Clone(to, image), to.Sync(), to.Close()); err != nil {
		return err
	}
	if err := f.root.Rename(newBase, base); err != nil {
		return err
	}
	return f.sync(".")
}

// replace makes or removes the stale segments, and flushes them and their folders. exists has the segments that the
// image has.
func (f *Folder) replace(ctx context.Context, image *os.File, length int64, stale, exists []int64) error {
	if err := f.root.MkdirAll(parts, 0o700); err != nil {
		return err
	}
	groups := map[string]bool{}
	for _, i := range stale {
		groups[path.Dir(f.path(i))] = true
	}
	for group := range groups {
		if err := f.root.MkdirAll(group, 0o700); err != nil {
			return err
		}
	}
	if err := f.replaceAll(ctx, image, length, stale, exists); err != nil {
		return err
	}
	for group := range groups {
		if err := f.sync(group); err != nil {
			return err
		}
	}
	return f.sync(parts)
}

func (f *Folder) path(index int64) string { return path.Join(parts, backends.SegmentPath(index)) }

// replaceAll makes or removes the stale segments, several at a time. It ends at the first error.
func (f *Folder) replaceAll(ctx context.Context, image *os.File, length int64, stale, exists []int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int64)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := range next {
				_, present := slices.BinarySearch(exists, i)
				if err := f.replaceOne(image, length, i, present); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, i := range stale {
		select {
		case next <- i:
			f.step("segments.replace")
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(next)
	all.Wait()
	return context.Cause(ctx)
}

// replaceOne makes a segment that shares blocks with the image or, if the image has a hole there, removes the segment.
// A new segment is another file, so that a reader sees the change in its inode and its times.
func (f *Folder) replaceOne(image *os.File, length, index int64, present bool) error {
	name := f.path(index)
	if !present {
		err := f.root.Remove(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	to, err := f.root.OpenFile(name+newEntry, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	at := index * backends.SegmentSize
	n := min(backends.SegmentSize, length-at)
	err = reflink.ClonePartAt(to, 0, image, at, n)
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		return fmt.Errorf("segment %d: %w", index, err)
	}
	return f.root.Rename(name+newEntry, name)
}

// sync flushes a folder.
func (f *Folder) sync(name string) error {
	dir, err := f.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
