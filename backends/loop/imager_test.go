package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

// divide updates the segments of a dataset from a clone of src, and checks that they are equal to its image.
func (f *fixture) divide(d dataset.Dataset, src dataset.Source) backends.SegmentedImage {
	f.Helper()
	clone := d
	clone.ID = uuid.New()
	f.clone(clone, src)
	defer func() { f.must(f.Delete(f.Context(), clone.ID)) }()
	is, err := f.Segments(f.Context(), d.ID, clone.ID)
	f.must(err)
	is.Release()
	f.must(f.compare(is, clone))
	return is
}

// compare fails unless segments are equal to the image of a dataset.
func (f *fixture) compare(is backends.SegmentedImage, d dataset.Dataset) error {
	f.Helper()
	image, err := os.Open(f.folderOf(d).Path(f.layout.Image(layout.Head)))
	f.must(err)
	defer image.Close()
	info, err := image.Stat()
	f.must(err)
	if info.Size() != is.Bytes {
		return fmt.Errorf("the image has %d bytes, and Segments says %d", info.Size(), is.Bytes)
	}
	var count int64
	part := make([]byte, backends.SegmentSize)
	for i := int64(0); i*backends.SegmentSize < is.Bytes; i++ {
		n, err := image.ReadAt(part, i*backends.SegmentSize)
		if err != nil && !errors.Is(err, io.EOF) {
			f.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(is.Dir, backends.SegmentPath(i)))
		switch {
		case errors.Is(err, os.ErrNotExist):
			got = make([]byte, n)
		case err != nil:
			f.Fatal(err)
		default:
			count++
		}
		if !bytes.Equal(got, part[:n]) {
			return fmt.Errorf("segment %d differs from the image", i)
		}
	}
	if count != is.Count || count != int64(len(f.files(is))) {
		return fmt.Errorf("%d of %d files are segments, and Segments says %d", count, len(f.files(is)), is.Count)
	}
	return nil
}

// files returns the inode and the change time of each segment.
func (f *fixture) files(is backends.SegmentedImage) map[string]string {
	f.Helper()
	all := map[string]string{}
	f.must(filepath.Walk(is.Dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			st := info.Sys().(*syscall.Stat_t)
			all[strings.TrimPrefix(path, is.Dir)] = fmt.Sprint(st.Ino, st.Ctim, st.Mtim)
		}
		return err
	}))
	return all
}

// noise returns random text.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + rand.IntN(26))
	}
	return string(b)
}

// Segments equal the image after each change of the volume. Those that did not change keep their inode and times, so
// that restic does not read them.
func TestSegmentsFollowTheImage(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		f.put(d.ID, "large", noise(40<<20))
		first := f.divide(d, head0(d))
		if first.Changed != int(first.Count) || first.Count < 40 || first.Count > 200 {
			t.Errorf("the first time %+v", first)
		}
		before := f.files(first)
		if again := f.divide(d, head0(d)); again.Changed != 0 {
			t.Errorf("nothing changed, and %d segments were made", again.Changed)
		}
		s := f.takeSnapshot(d)

		f.put(d.ID, "small", noise(1<<20))
		second := f.divide(d, head0(d))
		after := f.files(second)
		if second.Changed == 0 || second.Changed > 20 {
			t.Errorf("the second time %+v", second)
		}
		same := 0
		for name, is := range before {
			if after[name] == is {
				same++
			}
		}
		if same < len(before)-second.Changed {
			t.Errorf("%d of %d segments were replaced, and %d changed", len(before)-same, len(before), second.Changed)
		}

		f.divide(d, at(s)) // back to the former content
		f.divide(d, head0(d))
		f.must(f.Resize(f.Context(), d.ID, d.Size+100*dataset.MiB, nil))
		larger := f.divide(d, head0(d))
		if larger.Bytes <= second.Bytes {
			t.Errorf("%d bytes after the resize, before %d", larger.Bytes, second.Bytes)
		}
		// The record of the dataset does not have the new size yet. The image can be restored nevertheless.
		restored := newDataset(d.Profile.Filesystem.Type)
		restored.Size = larger.Size
		_, err := f.Create(f.Context(), restored)
		f.must(err)
		if larger.Size != d.Size+100*dataset.MiB || larger.Filesystem != d.Profile.Filesystem.Type {
			t.Errorf("after the resize: %+v", larger)
		}
		f.must(f.build(restored, larger.Bytes, func(folder string) { f.must(os.CopyFS(folder, os.DirFS(larger.Dir))) }))
		f.must(f.Delete(f.Context(), restored.ID))
		restored.Size = d.Size
		_, err = f.Create(f.Context(), restored)
		f.must(err)
		f.isKind(f.build(restored, larger.Bytes, func(string) {}), dataset.ErrCorrupt)
		f.must(f.Delete(f.Context(), restored.ID))
		if list := f.entries(); len(list) != 1 {
			t.Errorf("the pool lists %v", list)
		}

		f.must(f.DropSegments(f.Context(), d.ID))
		if all := f.divide(d, head0(d)); all.Changed != int(all.Count) {
			t.Errorf("after they were dropped %+v", all)
		}
		f.must(os.RemoveAll(larger.Dir)) // by hand
		if all := f.divide(d, head0(d)); all.Changed != int(all.Count) {
			t.Errorf("after a person removed them %+v", all)
		}
		f.must(f.Delete(f.Context(), d.ID))
		if _, err := os.Stat(filepath.Dir(larger.Dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the segments of a deleted dataset: %v", err)
		}
	})
}

// After a stop at any step, the next call is right, also if it brings back an earlier content.
func TestSegmentsAfterAStop(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		f.put(d.ID, "file", noise(3<<20))
		old := f.takeSnapshot(d)
		f.put(d.ID, "file", noise(3<<20))
		for _, stop := range []string{"begun", "replace", "replaced"} {
			f.divide(d, at(old))
			clone := d
			clone.ID = uuid.New()
			f.clone(clone, head0(d))
			ctx, cancel := context.WithCancelCause(f.Context())
			stopped := errors.New("stopped")
			f.backend.step = func(now string) {
				if now == "loop.segments."+stop {
					if stop != "replace" {
						panic(stopped)
					}
					cancel(stopped)
				}
			}
			func() {
				defer func() { _ = recover() }()
				if _, err := f.Segments(ctx, d.ID, clone.ID); !errors.Is(err, stopped) {
					t.Errorf("at %s: %v", stop, err)
				}
			}()
			f.backend.step = func(string) {}
			cancel(nil)
			f.must(f.Delete(f.Context(), clone.ID))
			f.divide(d, at(old))
			f.divide(d, head0(d))
		}
	})
}

// build is BuildImage with a function that gets the path of the folder.
func (f *fixture) build(d dataset.Dataset, bytes int64, fill func(folder string)) error {
	return f.BuildImage(f.Context(), d.ID, func(_ context.Context, folder *os.File) (int64, error) {
		fill(fmt.Sprintf("/proc/self/fd/%d", folder.Fd())) // its name can be stale
		return bytes, nil
	})
}

// An image that was divided and built again has the same content. The new dataset works as any other one.
func TestImageIsBuiltOfItsSegments(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		text := noise(5 << 20)
		f.put(d.ID, "file", text)
		is := f.divide(d, head0(d))
		restored := newDataset(d.Profile.Filesystem.Type)
		_, err := f.Create(f.Context(), restored)
		f.must(err)
		f.must(f.build(restored, is.Bytes, func(folder string) { f.must(os.CopyFS(folder, os.DirFS(is.Dir))) }))
		f.must(f.Commit(f.Context(), restored.ID))
		if got := f.get(restored.ID, "file"); got != text {
			t.Errorf("the restored file has %d bytes, want %d", len(got), len(text))
		}
		f.put(restored.ID, "other", "text")
		s := f.takeSnapshot(restored)
		f.divide(restored, at(s))
		f.must(f.Resize(f.Context(), restored.ID, restored.Size+100*dataset.MiB, nil))
		if got := f.get(restored.ID, "other"); got != "text" {
			t.Errorf("after a resize %q", got)
		}
		f.isKind(f.build(restored, is.Bytes, func(string) {}), dataset.ErrConflict) // it is committed
		if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(is.Dir)), restored.ID.String()+".new")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder of the restore: %v", err)
		}
	})
}

// The segments can come from a stranger.
func TestStrangeSegmentsAreRefused(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	is := f.divide(d, head0(d))
	secret := filepath.Join(t.TempDir(), "secret")
	f.must(os.WriteFile(secret, make([]byte, backends.SegmentSize), 0o600))
	first := backends.SegmentPath(0)
	for name, spoil := range map[string]func(folder string){
		"a link": func(folder string) {
			f.must(errors.Join(os.Remove(folder+"/"+first), os.Symlink(secret, folder+"/"+first)))
		},
		"a folder that is a link": func(folder string) {
			f.must(errors.Join(os.RemoveAll(folder+"/000000"), os.Symlink(filepath.Join(is.Dir, "000000"), folder+"/000000"),
				os.Symlink(filepath.Dir(secret), folder+"/000001")))
		},
		"a FIFO": func(folder string) {
			f.must(errors.Join(os.Remove(folder+"/"+first), unix.Mkfifo(folder+"/"+first, 0o600)))
		},
		"a short one":       func(folder string) { f.must(os.Truncate(folder+"/"+first, 4096)) },
		"a long one":        func(folder string) { f.must(os.Truncate(folder+"/"+first, 2<<20)) },
		"another name":      func(folder string) { f.must(os.WriteFile(folder+"/000000/x", nil, 0o600)) },
		"beyond the end":    func(folder string) { f.must(os.Link(folder+"/"+first, folder+"/000000/000003ff")) },
		"a file at the top": func(folder string) { f.must(os.WriteFile(folder+"/file", nil, 0o600)) },
		"a FIFO at the top": func(folder string) { f.must(unix.Mkfifo(folder+"/000001", 0o600)) },
		"no filesystem":     func(folder string) { f.must(os.RemoveAll(folder + "/000000")) },
	} {
		restored := newDataset(xfs)
		_, err := f.Create(t.Context(), restored)
		f.must(err)
		err = f.build(restored, is.Bytes, func(folder string) {
			f.must(os.CopyFS(folder, os.DirFS(is.Dir)))
			spoil(folder)
		})
		if !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		f.must(f.Delete(t.Context(), restored.ID))
	}
	restored := newDataset(xfs)
	_, err := f.Create(t.Context(), restored)
	f.must(err)
	f.isKind(f.build(restored, is.Bytes*2, func(string) {}), dataset.ErrCorrupt)
	f.isKind(f.build(restored, is.Bytes/2, func(string) {}), dataset.ErrCorrupt)
}

// An ext4 that would stop the host after an error is not mounted.
func TestHostileExt4IsRefused(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(ext4)
	f.create(d)
	is := f.divide(d, head0(d))
	for name, spoil := range map[string]struct {
		at   int64
		data string
	}{
		"errors=panic":  {1024 + 0x3c, "\x03\x00"},
		"mount options": {1024 + 0x200, "errors=panic"},
	} {
		restored := newDataset(ext4)
		_, err := f.Create(t.Context(), restored)
		f.must(err)
		err = f.build(restored, is.Bytes, func(folder string) {
			f.must(os.CopyFS(folder, os.DirFS(is.Dir)))
			first, err := os.OpenFile(filepath.Join(folder, backends.SegmentPath(0)), os.O_WRONLY, 0)
			f.must(err)
			_, err = first.WriteAt([]byte(spoil.data), spoil.at)
			f.must(errors.Join(err, first.Close()))
		})
		if !errors.Is(err, dataset.ErrCorrupt) || !strings.Contains(err.Error(), "stops the host") {
			t.Errorf("%s: %v", name, err)
		}
		f.must(f.Delete(t.Context(), restored.ID))
	}
}

// Reap removes the segments of datasets that are gone, and what an interrupted restore left.
func TestReapRemovesSegments(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		is := f.divide(d, head0(d))
		top := filepath.Dir(filepath.Dir(is.Dir))
		f.must(os.CopyFS(filepath.Join(top, uuid.NewString()), os.DirFS(is.Dir)))
		f.must(os.CopyFS(filepath.Join(top, uuid.NewString()+".new"), os.DirFS(is.Dir)))
		n, err := f.Reap(t.Context(), func(uuid.UUID) bool { return true })
		entries, rerr := os.ReadDir(top)
		f.must(errors.Join(err, rerr))
		if n != 2 || len(entries) != 1 || entries[0].Name() != d.ID.String() {
			t.Errorf("removed %d, and %v is left", n, entries)
		}
		s := f.takeSnapshot(d)
		f.must(f.Demote(t.Context(), d.ID, s.ID)) // another host has the head, and backs it up
		if n, err := f.Reap(t.Context(), func(uuid.UUID) bool { return false }); n != 1 || err != nil {
			t.Errorf("of a copy: removed %d, %v", n, err)
		}
		f.must(f.Delete(t.Context(), d.ID))
		remains, err := f.Clear(t.Context())
		if err != nil || remains != "" {
			t.Errorf("the pool is not removed: %s, %v", remains, err)
		}
	})
}

// fillNearly enlarges a file on the disk of the pool until the pool is nearly full.
func (f *fixture) fillNearly(ballast *os.File) {
	f.Helper()
	for step := int64(32 << 20); ; {
		st := f.Status(f.Context())
		if backends.CheckRoom("test", st.Free, st.Size) != nil {
			return
		}
		info, err := ballast.Stat()
		f.must(err)
		err = unix.Fallocate(int(ballast.Fd()), 0, info.Size(), step)
		if errors.Is(err, unix.ENOSPC) && step > 64<<10 {
			step /= 2
			continue
		}
		f.must(err)
	}
}

// Reap of a nearly full pool removes the segments of datasets, except those that a backup reads. The next backup makes
// all of them again.
func TestReapOfFullPoolDropsSegments(t *testing.T) {
	onPools(t, func(f *fixture) {
		none := func(uuid.UUID) bool { return false }
		reap := func(want int, when string) {
			f.Helper()
			if n, err := f.Reap(f.Context(), none); n != want || err != nil {
				f.Errorf("%s: removed %d, want %d, %v", when, n, want, err)
			}
		}
		exist := func(is backends.SegmentedImage) bool {
			_, err := os.Stat(is.Dir)
			return err == nil
		}
		d, read := newDataset(xfs), newDataset(xfs)
		for _, ds := range []dataset.Dataset{d, read} {
			f.create(ds)
			f.put(ds.ID, "file", noise(60<<20))
		}
		is := f.divide(d, head0(d))
		clone := read
		clone.ID = uuid.New()
		f.clone(clone, head0(read))
		backup, err := f.Segments(f.Context(), read.ID, clone.ID)
		f.must(err)
		f.must(f.Delete(f.Context(), clone.ID))
		f.put(d.ID, "file", noise(60<<20)) // only the segments have the former content now
		reap(0, "with room")

		ballast, err := os.Create(filepath.Join(f.disk, "ballast"))
		f.must(err)
		defer ballast.Close()
		f.fillNearly(ballast)
		if !exist(is) || !exist(backup) {
			t.Fatal("the segments are absent before the pool is full")
		}
		before := f.Status(f.Context()).Free
		reap(1, "nearly full")
		if exist(is) || !exist(backup) {
			t.Errorf("the released segments exist: %t, those that a backup reads: %t", exist(is), exist(backup))
		}
		f.eventually("the segments free their blocks", func() bool {
			f.must(unix.Syncfs(int(ballast.Fd()))) // btrfs frees blocks at its next commit
			return f.Status(f.Context()).Free > before+20*dataset.MiB
		})
		f.fillNearly(ballast)
		backup.Release()
		reap(1, "after the backup")
		reap(0, "again")

		f.must(ballast.Truncate(0))
		f.eventually("the pool has room again", func() bool {
			f.must(unix.Syncfs(int(ballast.Fd())))
			return f.Status(f.Context()).Free > before+100*dataset.MiB
		})
		for _, ds := range []dataset.Dataset{d, read} {
			if all := f.divide(ds, head0(ds)); all.Changed != int(all.Count) {
				t.Errorf("after they were removed %+v", all)
			}
		}
	})
}

// ReapSegments removes the segments of datasets, except those that a backup reads, however much room the pool has. After
// an interrupted removal, the next backup makes all of them.
func TestReapSegments(t *testing.T) {
	onPools(t, func(f *fixture) {
		reap := func(want int, when string) {
			f.Helper()
			if n, err := f.ReapSegments(f.Context()); n != want || err != nil {
				f.Errorf("%s: removed %d, want %d, %v", when, n, want, err)
			}
		}
		reap(0, "before the first backup")
		d, read := newDataset(xfs), newDataset(xfs)
		f.create(d)
		f.create(read)
		is := f.divide(d, head0(d))
		f.divide(read, head0(read))
		clone := read
		clone.ID = uuid.New()
		f.clone(clone, head0(read))
		backup, err := f.Segments(f.Context(), read.ID, clone.ID)
		f.must(err)
		f.must(os.Mkdir(filepath.Join(filepath.Dir(filepath.Dir(is.Dir)), d.ID.String()+".new"), 0o700)) // a restore runs
		reap(1, "of two")
		if _, err := os.Stat(is.Dir); !errors.Is(err, os.ErrNotExist) {
			f.Errorf("the released segments: %v", err)
		}
		f.must(f.compare(backup, clone))
		backup.Release()
		ended, cancel := context.WithCancel(f.Context())
		cancel()
		if n, err := f.ReapSegments(ended); n != 0 || !errors.Is(err, context.Canceled) {
			f.Errorf("after the end of the context: removed %d, %v", n, err)
		}

		f.backend.step = func(now string) {
			if now == "loop.segments.forgotten" {
				f.must(os.Remove(filepath.Join(backup.Dir, backends.SegmentPath(0))))
				panic(now)
			}
		}
		func() {
			defer func() { _ = recover() }()
			_, err := f.ReapSegments(f.Context())
			f.Errorf("the removal was not interrupted: %v", err)
		}()
		f.backend.step = func(string) {}
		if all := f.divide(read, head0(read)); all.Changed != int(all.Count) {
			f.Errorf("after an interrupted removal %+v", all)
		}
		f.must(f.Delete(f.Context(), clone.ID))
		reap(1, "after the backup")
		reap(0, "again")
	})
}
