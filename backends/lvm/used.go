package lvm

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
)

// Used implements backends.Pool: the kernel counts a volume's blocks. Of one that is not active
// the pool's metadata tell; it stays so.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	name, err := headOf(f)
	if err != nil {
		return 0, err
	}
	target, err := dm.Status(p.device(name))
	if errors.Is(err, dm.ErrAbsent) {
		return p.usedAtRest(ctx, name)
	}
	if err != nil {
		return 0, err
	}
	var sectors int64
	if n, _ := fmt.Sscanf(target.Status, "%d", &sectors); n != 1 || target.Type != "thin" {
		return 0, fmt.Errorf("the device mapper says %q of volume %s", target.Type+" "+target.Status, p.ref(name))
	}
	return dataset.Size(sectors) * 512, nil
}

// usedAtRest is the usage of a volume that is not active, which does not change while the volume is inactive.
// So all inactive volumes are read at once: a caller that asks for one asks for more.
func (p *Pool) usedAtRest(ctx context.Context, name string) (dataset.Size, error) {
	p.mu.Lock()
	size, known := p.atRest[name]
	p.mu.Unlock()
	if known {
		return size, nil
	}
	rows, err := p.tool.report(ctx, "lvs", "lv_name,thin_id,lv_active", "--select", "pool_lv="+poolName, p.vg)
	if err != nil {
		return 0, err
	}
	blocks, err := p.mapped(ctx)
	if err != nil {
		return 0, fmt.Errorf("pool %s: what its volumes take: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.atRest)
	for _, r := range rows {
		number, err := strconv.ParseUint(r["thin_id"], 10, 64)
		n, there := blocks[number]
		if err == nil && there && r["lv_active"] == "" {
			p.atRest[r["lv_name"]] = dataset.Size(n) * p.chunk
		}
	}
	if size, known = p.atRest[name]; !known {
		return 0, dataset.Errorf(dataset.ErrCorrupt, "volume %s is gone, or has just become active", p.ref(name))
	}
	return size, nil
}

// mapped returns how many blocks the pool's volumes take, by their numbers in it.
func (p *Pool) mapped(ctx context.Context) (map[uint64]uint64, error) {
	if _, err := p.usage(ctx); err != nil { // it is active then
		return nil, err
	}
	err := dm.Commit(p.device(poolName) + "-tpool")
	if errors.Is(err, dm.ErrAbsent) {
		err = dm.Commit(p.device(poolName))
	}
	if err != nil {
		return nil, err
	}
	dev, err := dm.Find(p.device(poolName + "_tmeta"))
	if err != nil {
		return nil, err
	}
	return dm.Mapped(dev.Node())
}
