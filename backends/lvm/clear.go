package lvm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer. A volume group that was made for the pool goes, with its labels
// on the devices; one that was there before stays, without Drover's volumes and tag in it.
func (p *Pool) Clear(ctx context.Context) (left string, err error) {
	g, all, err := p.tool.look(ctx, p.vg)
	if err != nil {
		return "", err
	}
	if tag := poolTag + p.ID().String(); !slices.Contains(g.Tags, tag) {
		return "", dataset.Errorf(dataset.ErrOffline,
			"volume group %s has not the tag %s of pool %s any more: nothing in it is removed (vgs -o +vg_tags)",
			p.vg, tag, p.name)
	}
	others := ""
	for name, v := range all {
		switch {
		case v.Pool == poolName:
			return "", dataset.Errorf(dataset.ErrConflict, "pool %s holds volume %s: it is not removed", p.name,
				p.ref(name))
		case name != poolName && name != recordsName:
			others = name
		}
	}
	if p.whole && others != "" {
		return "", dataset.Errorf(dataset.ErrConflict,
			"volume group %s was made for pool %s, and has %s, which is not drover's: it is not removed "+
				"(lvremove %s, if nobody needs it)", p.vg, p.name, others, p.ref(others))
	}
	if err := p.Close(); err != nil {
		return "", err
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	if at := p.shelf.Path(); table.At(at) != nil {
		return "", dataset.Errorf(dataset.ErrInUse, "%s is in use still (fuser -vm %s shows by what)", at, at)
	}
	// The records go after the thin pool: without that Open with Make makes it anew.
	for _, name := range []string{poolName, recordsName} {
		if err := p.tool.lvm(ctx, "lvremove", "--yes", "--select",
			fmt.Sprintf("lv_name=%s && lv_tags=%s", name, ourTag), p.vg); err != nil {
			return "", err
		}
		p.step("lvm.clear." + name)
	}
	if !p.whole {
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
		wipe = append(wipe, "blkdiscard -z "+d) // without -f, so that one that is busy is refused
	}
	return fmt.Sprintf("volume group %s is gone, and what was written to its devices is there still: for "+
			"another pool of them %s writes zeros over all of it", p.vg, strings.Join(wipe, " && ")),
		p.tool.lvm(ctx, "pvremove", devices...)
}
