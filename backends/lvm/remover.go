package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	return p.ReapTrees(ctx, drop)
}

// destroy removes files or folders. Before that, it removes the volume that a file names, or the volumes that the files
// in a folder name. Idempotent. Package shelf calls it (see shelf.Shelf).
func (p *Pool) destroy(ctx context.Context, dir safefile.Dir, names ...string) error {
	for _, name := range names {
		if err := p.destroyOne(ctx, dir, name); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pool) destroyOne(ctx context.Context, dir safefile.Dir, name string) error {
	root, names := dir, []string{name}
	if st, err := dir.Lstat(name); err == nil && safefile.IsDir(st) {
		if root, err = dir.Sub(name); err != nil {
			return err
		}
		defer root.Close()
		if names, err = root.Names("."); err != nil {
			return err
		}
	}
	var doomed []string
	for _, name := range names {
		if !shelf.IsTree(name) {
			continue
		}
		volume, err := volumeOf(root, name)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		default:
			doomed = append(doomed, volume)
		}
	}
	p.step("lvm.destroy.begun")
	if err := p.abandonMappings(doomed); err != nil {
		return err
	}
	if err := p.removeVolumes(ctx, doomed); err != nil {
		return err
	}
	p.step("lvm.destroy.removed")
	return tree.Remove(ctx, dir.File, name)
}

// removeVolumes removes the volumes that exist, are in Drover's thin pool and have its tag.
func (p *Pool) removeVolumes(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var conditions []string
	for _, name := range names {
		conditions = append(conditions, "lv_name="+name)
	}
	removable := fmt.Sprintf("pool_lv=%s && lv_tags=%s && (%s)", poolName, ourTag, strings.Join(conditions, " || "))
	return p.change(ctx, "lvremove", "--yes", "--select", removable, p.vg)
}

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer. If the volume group was made for the pool, Clear removes the group and its labels
// on the devices. If the group existed before, Clear removes only Drover's volumes and tag.
func (p *Pool) Clear(ctx context.Context) (remains string, err error) {
	g, all, err := p.tool.readGroup(ctx, p.vg)
	if err != nil {
		return "", err
	}
	if tag := poolTag + p.ID().String(); !slices.Contains(g.Tags, tag) {
		return "", dataset.Errorf(dataset.ErrOffline,
			"volume group %s no longer has the tag %s of pool %s: nothing in it is removed (vgs -o +vg_tags)",
			p.vg, tag, p.name)
	}
	others := ""
	for name, v := range all {
		switch {
		case v.Pool == poolName:
			return "", dataset.Errorf(dataset.ErrConflict, "pool %s contains volume %s: it is not removed", p.name,
				p.ref(name))
		case name != poolName && name != recordsName:
			others = name
		}
	}
	if p.ownsGroup && others != "" {
		return "", dataset.Errorf(dataset.ErrConflict,
			"volume group %s was created for pool %s, and contains %s, which is not drover's: it is not removed "+
				"(lvremove %s, if it is not needed)", p.vg, p.name, others, p.ref(others))
	}
	if err := p.Shelf.CheckEmpty(); err != nil { // a folder whose volume is missing
		return "", err
	}
	if err := p.Close(); err != nil {
		return "", err
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	if at := p.Shelf.Path(); table.At(at) != nil {
		return "", dataset.Errorf(dataset.ErrInUse, "%s is still in use (fuser -vm %s shows the users)", at, at)
	}
	// The records are removed after the thin pool: if the records were missing, Open with Make would recreate them.
	for _, name := range []string{poolName, recordsName} {
		if err := p.tool.lvm(ctx, "lvremove", "--yes", "--select",
			fmt.Sprintf("lv_name=%s && lv_tags=%s", name, ourTag), p.vg); err != nil {
			return "", err
		}
		p.step("lvm.clear." + name)
	}
	if !p.ownsGroup {
		return "", p.tool.lvm(ctx, "vgchange", "--deltag", poolTag+p.ID().String(), p.vg)
	}
	rows, err := p.tool.report(ctx, "vgs", "pv_name", p.vg)
	if err != nil {
		return "", err
	}
	var devices []string
	for _, r := range rows {
		devices = append(devices, r["pv_name"])
	}
	if err := p.tool.lvm(ctx, "vgremove", p.vg); err != nil {
		return "", err
	}
	var wipe []string
	for _, d := range devices {
		wipe = append(wipe, "blkdiscard -z "+d) // without -f, so that a busy device is refused
	}
	return fmt.Sprintf("volume group %s was removed, but its devices still contain the old data: before you "+
			"create another pool on them, %s overwrites them with zeros", p.vg, strings.Join(wipe, " && ")),
		p.tool.lvm(ctx, "pvremove", devices...)
}
