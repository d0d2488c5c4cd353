package zfs

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// space measures the free space of the pool.
type space struct {
	*storage
	total atomic.Int64 // bytes of the home, used and free, when last looked at
}

// measure returns the size of the home: statfs(2) reports the free space, but only the used space of this one
// filesystem of the zpool.
func (v *space) measure(ctx context.Context) error {
	text, err := v.tool.value(ctx, "used,available", v.home.name)
	if err != nil {
		return err
	}
	var total int64
	for n := range strings.Lines(text) {
		bytes, err := bytesOf(strings.TrimSpace(n))
		if err != nil {
			return fmt.Errorf("size of %s: %w", v.home.name, err)
		}
		total += int64(bytes)
	}
	v.total.Store(total)
	return nil
}

// status returns the status of the pool. Its size is that of when the pool was last opened or listed.
func (v *space) status() dataset.PoolStatus {
	st := v.shelf.Status()
	if st.Online {
		st.Size = max(dataset.Size(v.total.Load()), st.Free)
		if err := backends.Room(v.name, st.Free, st.Size); err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// room fails with ErrNoSpace while nothing new should begin in the pool.
func (v *space) room() error {
	st := v.status()
	if !st.Online {
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	return backends.Room(v.name, st.Free, st.Size)
}

// settle waits until all writes are counted: setting a property to its present value waits for the transaction group.
func (v *space) settle(ctx context.Context) error {
	return v.tool.zfs(ctx, "set", poolProperty+"="+v.shelf.ID().String(), v.top())
}
