package backendtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// imagedSize is the size of the datasets whose images are divided. XFS needs 300 MiB.
const imagedSize = 320 * dataset.MiB

// imager returns the pool as an Imager. ok is false if its datasets are not image files.
func (f *fixture) imager() (pool backends.Imager, ok bool) {
	pool, ok = f.Pool.(backends.Imager)
	return pool, ok
}

// imaged makes a dataset with a file of random bytes in its image.
func (f *fixture) imaged() dataset.Dataset {
	f.Helper()
	d := f.Sized(imagedSize)
	f.Write(d.ID, "file", string(treetest.Bytes(1, 8<<20)))
	return d
}

// divided are the segments of an image, after the clone that they were made from was deleted.
type divided struct {
	backends.SegmentedImage
	sum [sha256.Size]byte // of the image
}

// divide brings the segments of a dataset up to date with src, and releases them. It fails unless they are equal to the
// image of src.
func (f *fixture) divide(pool backends.Imager, d dataset.Dataset, src dataset.Source) divided {
	f.Helper()
	clone := f.Clone(src)
	is, err := pool.Segments(f.Ctx, d.ID, clone.ID)
	f.OK(err)
	is.Release()
	bytes, sum := f.imageOf(clone.ID)
	f.OK(f.Pool.Delete(f.Ctx, clone.ID))
	f.CheckAbsent(clone.ID)
	if bytes != is.Bytes || is.Count == 0 {
		f.Errorf("the image has %d bytes, and Segments describes it as %+v", bytes, is)
	}
	if f.join(is) != sum {
		f.Errorf("the joined segments differ from the image of %d bytes", bytes)
	}
	return divided{is, sum}
}

// imageOf reads the image of an idle dataset through its device, and returns its length and its checksum.
func (f *fixture) imageOf(id uuid.UUID) (bytes int64, sum [sha256.Size]byte) {
	f.Helper()
	a, err := f.Pool.Attach(f.Ctx, id, backends.AttachOptions{ReadOnly: true})
	f.OK(err)
	defer func() { f.OK(a.Release()) }()
	device, err := os.Open(a.Mount.Source)
	f.OK(err)
	defer device.Close()
	h := sha256.New()
	bytes, err = io.Copy(h, device)
	f.OK(err)
	return bytes, [sha256.Size]byte(h.Sum(nil))
}

// join joins segments to an image, and returns its checksum. It fails if the number of segments is not the reported
// one, or if a segment has a wrong size.
func (f *fixture) join(is backends.SegmentedImage) [sha256.Size]byte {
	f.Helper()
	h := sha256.New()
	var count int64
	for i := int64(0); i*backends.SegmentSize < is.Bytes; i++ {
		part, err := os.ReadFile(filepath.Join(is.Dir, backends.SegmentPath(i)))
		want := min(backends.SegmentSize, is.Bytes-i*backends.SegmentSize)
		if errors.Is(err, os.ErrNotExist) {
			part = make([]byte, want) // a hole
		} else {
			f.OK(err)
			count++
		}
		if int64(len(part)) != want {
			f.Fatalf("segment %d has %d bytes, want %d", i, len(part), want)
		}
		_, err = h.Write(part)
		f.OK(err)
	}
	if count != is.Count || count != int64(len(f.segments(is))) {
		f.Errorf("%d of %d files are segments, and Segments reports %d", count, len(f.segments(is)), is.Count)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// segments returns what restic compares of each segment: its inode, size and times.
func (f *fixture) segments(is backends.SegmentedImage) map[string]string {
	f.Helper()
	all := map[string]string{}
	f.OK(fs.WalkDir(os.DirFS(is.Dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			st := info.Sys().(*syscall.Stat_t)
			all[path] = fmt.Sprint(st.Ino, st.Size, st.Ctim, st.Mtim)
		}
		return err
	}))
	return all
}

// segmentsEqualImage divides the head and a snapshot of a dataset. The segments are no datasets, and Delete removes
// them with theirs.
func segmentsEqualImage(f *fixture) {
	pool, ok := f.imager()
	if !ok {
		return
	}
	d := f.imaged()
	s := f.TakeSnapshot(d)
	f.Write(d.ID, "later", "text")
	head := f.divide(pool, d, dataset.Source{Dataset: d.ID})
	before := f.divide(pool, d, f.Source(s))
	if head.sum == before.sum {
		f.Errorf("the image of the snapshot is that of the head")
	}
	if head.Size != imagedSize || head.Filesystem == "" {
		f.Errorf("the image of a dataset of %s: %+v", imagedSize.Human(), head.SegmentedImage)
	}
	f.Open()
	pool, _ = f.imager()
	if again := f.divide(pool, d, f.Source(s)); again.Changed != 0 {
		f.Errorf("%d segments were made after the pool was opened again", again.Changed)
	}
	f.CheckReady(d, s)
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
	if _, err := os.Stat(head.Dir); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("the segments of a deleted dataset: %v", err)
	}
}

// onlyChangedSegmentsAreReplaced checks that every file whose bytes did not change is the same file. restic does not
// read it again.
func onlyChangedSegmentsAreReplaced(f *fixture) {
	pool, ok := f.imager()
	if !ok {
		return
	}
	d := f.imaged()
	first := f.divide(pool, d, dataset.Source{Dataset: d.ID})
	old := f.segments(first.SegmentedImage)
	if first.Changed != len(old) {
		f.Errorf("the first call made %d of %d segments", first.Changed, len(old))
	}
	same := f.divide(pool, d, dataset.Source{Dataset: d.ID})
	f.Same("the segments of an image that did not change", f.segments(same.SegmentedImage), old)
	if same.Changed != 0 {
		f.Errorf("nothing changed, and %d segments were made", same.Changed)
	}

	f.Write(d.ID, "small", "text")
	second := f.divide(pool, d, dataset.Source{Dataset: d.ID})
	replaced := 0
	for path, now := range f.segments(second.SegmentedImage) {
		if old[path] != now {
			replaced++
		}
	}
	// The filesystem in the image also writes its journal, and its superblock.
	if replaced == 0 || replaced > second.Changed || second.Changed >= len(old)/2 {
		f.Errorf("%d of %d segments were replaced after a small change, and %d are reported", replaced, len(old),
			second.Changed)
	}
}

// imageIsBuiltOfSegments makes a dataset of the segments of another one. It has the same bytes.
func imageIsBuiltOfSegments(f *fixture) {
	pool, ok := f.imager()
	if !ok {
		return
	}
	d := f.imaged()
	is := f.divide(pool, d, dataset.Source{Dataset: d.ID})
	restored := f.Record()
	restored.Size, restored.Profile.Filesystem.Type = is.Size, is.Filesystem
	_, err := f.Pool.Create(f.Ctx, restored)
	f.OK(err)
	build := func(id uuid.UUID) error {
		return pool.BuildImage(f.Ctx, id, func(_ context.Context, folder *os.File) (int64, error) {
			return is.Bytes, os.CopyFS(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()), os.DirFS(is.Dir))
		})
	}
	f.OK(build(restored.ID))
	f.OK(f.Pool.Commit(f.Ctx, restored.ID))
	if bytes, sum := f.imageOf(restored.ID); sum != is.sum {
		f.Errorf("the built image of %d bytes differs from the divided one of %d bytes", bytes, is.Bytes)
	}
	f.CheckContent(restored.ID, "file", string(treetest.Bytes(1, 8<<20)))
	f.CheckFails(build(restored.ID), dataset.ErrConflict) // it is committed
	f.CheckFails(build(uuid.New()), dataset.ErrNotFound)
	f.Reap(0) // BuildImage has removed the folder
}

// droppedSegmentsAreMadeAgain drops segments twice. A dataset that does not exist has none to drop.
func droppedSegmentsAreMadeAgain(f *fixture) {
	pool, ok := f.imager()
	if !ok {
		return
	}
	d := f.imaged()
	f.OK(pool.DropSegments(f.Ctx, d.ID)) // it has none yet
	is := f.divide(pool, d, dataset.Source{Dataset: d.ID})
	f.Twice(func() error { return pool.DropSegments(f.Ctx, d.ID) })
	if _, err := os.Stat(is.Dir); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("the dropped segments: %v", err)
	}
	f.OK(pool.DropSegments(f.Ctx, uuid.New()))
	if again := f.divide(pool, d, dataset.Source{Dataset: d.ID}); again.Changed != int(is.Count) {
		f.Errorf("after a drop %d segments were made, want %d", again.Changed, is.Count)
	}
	f.CheckReady(d)
}
