package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/fakes"
)

// The oldest templates are removed, so that sizes that were used once do not accumulate.
func TestTemplatesAreBounded(t *testing.T) {
	f := newFixture(t, "xfs")
	for i := range maxTemplates + 3 {
		d := newDataset(ext4)
		d.Size = 16*dataset.MiB + dataset.Size(i)*dataset.MiB
		_, err := f.Create(t.Context(), d)
		f.must(err)
	}
	left, err := os.ReadDir(filepath.Join(f.Shelf.Path(), templatesDir))
	f.must(err)
	if len(left) != maxTemplates {
		t.Errorf("%d templates", len(left))
	}
	first := newDataset(ext4)
	first.Size = 16 * dataset.MiB
	f.create(first)
}

// Every create shares the extents of a template, so there must be few.
func TestTemplatesHaveFewExtents(t *testing.T) {
	f := newFixture(t, "xfs")
	for _, fs := range []string{xfs, ext4} {
		d := newDataset(fs)
		d.Size = 20 * dataset.GiB
		_, err := f.Create(t.Context(), d)
		f.must(err)
	}
	images, err := filepath.Glob(filepath.Join(f.Shelf.Path(), templatesDir, "*"+imageSuffix))
	f.must(err)
	if len(images) != 2 {
		t.Fatalf("templates: %v", images)
	}
	for _, image := range images {
		file, err := os.Open(image)
		f.must(err)
		defer file.Close()
		n, err := reflink.Count(file)
		f.must(err)
		used := blocks(t, image)
		t.Logf("%s: %d extents, %d KiB", filepath.Base(image), n, used>>10)
		if n > 64 || used > 8<<20 {
			t.Errorf("%s: %d extents, %d bytes", image, n, used)
		}
	}
}

// There is one mkfs for all datasets of a kind, and no other operation starts a program.
func TestForksOncePerTemplate(t *testing.T) {
	onPools(t, func(f *fixture) {
		var wg sync.WaitGroup
		ids := make([]dataset.Dataset, 64)
		for i := range ids {
			ids[i] = newDataset(xfs)
			wg.Go(func() {
				if _, err := f.Create(f.Context(), ids[i]); err != nil {
					f.Error(err)
				}
			})
		}
		wg.Wait()
		if calls := f.forks.Calls(); len(calls) != 1 || calls[0].Name != "mkfs.xfs" {
			f.Fatalf("commands: %+v", calls)
		}
		d := ids[0]
		f.put(d.ID, "a", "data")
		s := f.takeSnapshot(d)
		c := newDataset("")
		f.clone(c, at(s))
		f.must(f.Restore(f.Context(), d.ID, s.ID, newSnapshot(d), nil))
		f.must(f.Resize(f.Context(), d.ID, larger, nil))
		f.must(f.Delete(f.Context(), d.ID))
		if n := f.forks.Count(); n != 1 {
			f.Errorf("%d commands: %+v", n, f.forks.Calls()[1:])
		}
		for _, other := range ids {
			f.must(f.Delete(f.Context(), other.ID))
		}
	})
}

func TestFailedMkfsLeavesNothing(t *testing.T) {
	f := newFixture(t, "xfs")
	broken := errors.New("no mkfs today")
	f.forks.Next = fakes.Run(func(context.Context, run.Command) (run.Result, error) { return run.Result{}, broken })
	d := newDataset(xfs)
	if _, err := f.Create(t.Context(), d); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if got := f.entries(); len(got) != 0 {
		t.Errorf("entries %v", got)
	}
	f.settled()
	f.forks.Next = &run.System{}
	f.create(d)
}

// An ext4 with damaged metadata is not written to, because the damage would spread.
func TestExt4StopsOnErrors(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(ext4)
	f.create(d)
	out := scratch.Run(t, "dumpe2fs", "-h",
		filepath.Join(f.Shelf.Path(), shelf.Datasets, d.ID.String(), headItem+imageSuffix))
	if !regexp.MustCompile(`Errors behavior: +Remount read-only`).MatchString(out) {
		t.Errorf("dumpe2fs says\n%s", out)
	}
}
