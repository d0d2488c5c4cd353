package lvm

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// checkThinPool fails with ErrNoSpace, and advice, if the thin pool is so full that no new work should begin, or if it
// cannot be written to, for example because it is damaged.
func (p *Pool) checkThinPool(u usage) error {
	ref := p.ref(poolName)
	switch {
	case u.mode == "out of data space" || u.data > u.dataOf/100*maxPercent:
		return dataset.Errorf(dataset.ErrNoSpace,
			"pool %s is nearly full: %s of the %s of its thin pool are in use, and new work is refused above %d "+
				"%% (delete snapshots or volumes; or lvextend --size +20%% %s, after vgextend %s DEVICE if it lacks "+
				"space)",
			p.name, u.data.Human(), u.dataOf.Human(), maxPercent, ref, p.vg)
	case u.mode != "":
		return dataset.Errorf(dataset.ErrNoSpace,
			"pool %s: its thin pool is %s: unmount its volumes, then lvconvert --repair %s", p.name, u.mode, ref)
	case u.metadata > u.metadataOf/100*maxPercent:
		return dataset.Errorf(dataset.ErrNoSpace,
			"pool %s is nearly full: %s of the %s for the metadata of its thin pool are in use, and new work is "+
				"refused above %d %% (lvextend --poolmetadatasize +%s %s; or delete snapshots)",
			p.name, u.metadata.Human(), u.metadataOf.Human(), maxPercent, bytesText(p.roundUp(u.metadataOf/4)), ref)
	}
	return nil
}

// status does the work of Pool.Status. It starts lvm(8) only if the thin pool is inactive, or after a command has
// failed.
func (p *Pool) status(ctx context.Context) dataset.PoolStatus {
	st := p.Shelf.Status()
	if !st.Online {
		return st
	}
	if p.tool.failed.Load() && len(p.tool.running) == 0 {
		_ = p.resumeIfFailed(ctx) // a later call retries
	}
	free, size := st.Free, st.Size
	u, err := p.usage(ctx)
	if err == nil && u.mode == "failed" {
		err = p.checkThinPool(u)
	}
	if err != nil {
		st.Online, st.Reason = false, err.Error()
		return st
	}
	st.Size, st.Free = u.dataOf, u.dataOf-u.data
	var fs unix.Statfs_t
	if err = p.tool.busy(); err == nil {
		err = unix.Statfs(p.Shelf.Path(), &fs)
	}
	if err == nil {
		err = p.checkFree(u, free, size, fs.Ffree, fs.Files)
	}
	if err != nil {
		st.Reason = err.Error()
	}
	return st
}

// checkFree fails with ErrNoSpace, and advice, if the thin pool is nearly full (see checkThinPool), or if the
// filesystem of the records has less than a twentieth of its bytes or inodes free. free and files are the free bytes
// and inodes of the filesystem of the records, and size and filesOf its total bytes and inodes.
func (p *Pool) checkFree(u usage, free, size dataset.Size, files, filesOf uint64) error {
	if err := p.checkThinPool(u); err != nil {
		return err
	}
	shortage := ""
	switch {
	case free < size/20:
		shortage = fmt.Sprintf("%s free of %s", free.Human(), size.Human())
	case files < filesOf/20:
		shortage = fmt.Sprintf("%d inodes free of %d", files, filesOf)
	default:
		return nil
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"pool %s lacks space for more records: %s (lvextend --resizefs --size +256m %s)", p.name, shortage,
		p.ref(recordsName))
}

// checkRoom fails with ErrNoSpace if the pool is so full that no new work should begin.
func (p *Pool) checkRoom(ctx context.Context) error {
	if err := p.tool.busy(); err != nil {
		return err
	}
	switch st := p.status(ctx); {
	case !st.Online:
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	case st.Reason != "":
		return dataset.Errorf(dataset.ErrNoSpace, "%s", st.Reason)
	}
	return nil
}
