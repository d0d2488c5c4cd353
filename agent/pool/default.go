package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// makeDefault makes the default pool. It is called if drover.yaml names no pool. If the root is on a filesystem with
// reflinks, the pool is a folder with an image file for each dataset. Otherwise the pool is an image file with half
// of the free space. If such an image cannot be made, the pool has a plain folder for each dataset.
func (t *Pools) makeDefault(ctx context.Context) error {
	dir := filepath.Join(t.Root, "pools")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("create the folder of pools: %w", err)
	}
	var tried []error
	path := filepath.Join(dir, "default.img")
	// A start that was killed while it made the pool may have left an unfinished image with half of the free space.
	if err := os.Remove(backends.TemporaryImagePath(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the remains of an earlier start: %w", err)
	}
	half, err := halfOfFreeSpace(dir)
	if err != nil {
		return err
	}
	image := Record{Backend: "loop", Path: path, Image: half, Mount: t.ImageMount("default"), Default: true}
	for _, rec := range []Record{
		{Backend: "loop", Path: filepath.Join(dir, "default"), Default: true},
		image,
		{Backend: "dir", Path: filepath.Join(dir, "default"), Default: true},
	} {
		if rec.Mount != "" && rec.Image == 0 {
			tried = append(tried, dataset.Errorf(dataset.ErrNoSpace, "less than 2GiB free at %s", dir))
			continue
		}
		_, err := t.Make(ctx, "default", rec)
		if err == nil {
			if rec.Backend == "dir" {
				t.Log.WithField("pool", "default").
					Warnf("the default pool can neither enforce sizes nor snapshot without copying: %v",
						errors.Join(tried...))
			}
			if rec.Image > 0 {
				t.Log.WithField("pool", "default").
					Infof("preallocated %s, half of the free space of %s (drover pool create creates other pools)",
						rec.Image.Human(), dir)
			}
			return nil
		}
		if kind := dataset.KindOf(err); kind != dataset.ErrUnsupported && kind != dataset.ErrNoSpace {
			return err
		}
		tried = append(tried, err)
	}
	return fmt.Errorf("cannot create a default pool: %w", errors.Join(tried...))
}

// halfOfFreeSpace returns half of the free bytes at path, in whole GiB, or 0 if half is less than one GiB.
func halfOfFreeSpace(path string) (dataset.Size, error) {
	free, _, err := fsctl.Space(path)
	return dataset.Size(free) / 2 / dataset.GiB * dataset.GiB, err
}
