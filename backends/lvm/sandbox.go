package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/mount"
)

// sandboxTag begins the tag of a volume whose pool is in a sandbox. A sandbox is a folder of another pool, in which a
// trial makes its pool (package trialdir). The tag ends with the UUID of the pool in the sandbox. The volume is in the
// thin pool of the outer pool.
const sandboxTag = "drover.corner="

// SeparateFolder implements backends.SeparateFolderKind. It returns where the records of a volume group are mounted.
func (b *Backend) SeparateFolder(path string) (string, error) {
	vg, ok := strings.CutPrefix(path, "/dev/")
	if !ok || !groupName.MatchString(vg) {
		return "", dataset.Errorf(dataset.ErrInvalid, "%s is not the path of a volume group", path)
	}
	dev, err := dm.Find(dm.Mangle(vg, recordsName))
	if err != nil {
		return "", dataset.Errorf(dataset.ErrOffline, "volume group %s is not active on this host: %w", vg, err)
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table.Of(int(dev.Major), int(dev.Minor)) {
		return m.Mountpoint, nil
	}
	return "", dataset.Errorf(dataset.ErrOffline, "the records volume of volume group %s is not mounted here", vg)
}

// inSandbox reports whether the path of a pool is in a sandbox of another pool. Otherwise the path is that of a volume
// group.
func inSandbox(path string) bool {
	for at := filepath.Dir(path); at != filepath.Dir(at); at = filepath.Dir(at) {
		if trialdir.IsSandbox(filepath.Dir(at), filepath.Base(at)) {
			return true
		}
	}
	return false
}

// openSandbox opens a pool in a sandbox of another pool, the outer pool. Its records are in a folder beside the records
// of the outer pool, and its volumes are in the thin pool of the outer pool.
func (b *Backend) openSandbox(ctx context.Context, cfg backends.Config) (*Pool, error) {
	vg, err := groupOf(filepath.Dir(cfg.Path))
	if err != nil {
		return nil, err
	}
	p := b.pool(cfg, vg)
	p.inSandbox = true
	g, all, err := p.tool.readGroup(ctx, vg)
	if err != nil {
		return nil, err
	}
	p.extent, p.chunk = g.Extent, all[poolName].Chunk
	if thin := all[poolName]; thin.Kind != "thin-pool" || !slices.Contains(thin.Tags, ourTag) {
		return nil, dataset.Errorf(dataset.ErrOffline, "volume group %s has no thin pool of drover", vg)
	}
	if p.Shelf, err = shelf.Open(cfg, Name); err != nil {
		return nil, err
	}
	p.Shelf.Destroy, p.Shelf.CheckUnused = p.destroy, p.checkFolderIdle
	return p, p.declare()
}

// groupOf returns the volume group whose filesystem of records contains a folder.
func groupOf(dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrOffline, "%w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	name, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/dm/name", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	vg, ok := strings.CutSuffix(strings.TrimSpace(string(name)), "-"+recordsName)
	if vg = strings.ReplaceAll(vg, "--", "-"); !ok || !groupName.MatchString(vg) {
		return "", dataset.Errorf(dataset.ErrUnsupported, "%s is not on the records volume of a volume group", dir)
	}
	return vg, nil
}
