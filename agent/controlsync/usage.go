package controlsync

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Last returns how full a dataset was when its filesystem was last read. The result is zero if that is not known.
func (s *StatusReader) Last(id uuid.UUID) dataset.Usage {
	s.usages.mu.Lock()
	defer s.usages.mu.Unlock()
	return s.usages.last[id].Usage
}

// statfs returns the usage of the filesystem that is mounted at path as df shows it, or nil if path is "", cannot be
// read, or is no mount point. A dataset can be unmounted at any moment: statfs(2) then returns the figures of the
// filesystem below, which is that of the root of the host.
func statfs(path string) *dataset.Usage {
	if path == "" {
		return nil
	}
	before := mount.ID(path)
	var fs unix.Statfs_t
	if before == 0 || unix.Statfs(path, &fs) != nil || mount.ID(path) != before {
		return nil
	}
	usage := usageOf(fs)
	return &usage
}

// usageOf returns the figures of df for the result of statfs(2).
func usageOf(fs unix.Statfs_t) dataset.Usage {
	return dataset.Usage{
		Used:       bytes(fs.Blocks-fs.Bfree, fs.Frsize),
		Available:  bytes(fs.Bavail, fs.Frsize),
		Inodes:     int64(fs.Files),            //nolint:gosec // does not overflow: no filesystem has 2^63 inodes
		InodesUsed: int64(fs.Files - fs.Ffree), //nolint:gosec // as above
	}
}

func bytes(blocks uint64, each int64) dataset.Size {
	return dataset.Size(blocks) * dataset.Size(each) //nolint:gosec // does not overflow: no filesystem has 2^63 bytes
}

// usages remembers how full datasets are, also across restarts of the agent. It is safe for concurrent use.
type usages struct {
	mu    sync.Mutex
	last  map[uuid.UUID]lastUsage
	saved map[uuid.UUID]usageSummary // what is on disk
}

// lastUsage is the usage of a dataset when it was last read. It is also the record on disk.
type lastUsage struct {
	Usage    dataset.Usage    `json:"usage"`
	Fullness dataset.Fullness `json:"fullness,omitempty"`
	Size     dataset.Size     `json:"size"` // of the dataset
}

// usageSummary is what users see of a usage. A change that leaves the summary unchanged is not written to disk.
type usageSummary struct {
	size                  dataset.Size
	percent, inodePercent int
	fullness              dataset.Fullness
}

// note records the usage of a dataset, and returns the usage and state to report. If usage is nil, it is not known at
// the moment. note then returns the last usage, until the size changes or forget is called after a restore.
func (u *usages) note(d dataset.Dataset, usage *dataset.Usage) (*dataset.Usage, dataset.Fullness) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, known := u.last[d.ID]
	if usage == nil {
		if !known || was.Size != d.Size {
			delete(u.last, d.ID)
			return nil, dataset.NotFull
		}
		usage = &was.Usage
	}
	next := lastUsage{Usage: *usage, Size: d.Size}
	if d.Size > 0 { // without a size, the space of the pool is the limit, and the pool is reported
		next.Fullness = usage.Fullness(d.Profile.WarnAt, was.Fullness)
	}
	if u.last == nil {
		u.last = map[uuid.UUID]lastUsage{}
	}
	u.last[d.ID] = next
	return usage, next.Fullness
}

// load sets the records that were read from disk.
func (u *usages) load(all map[uuid.UUID]lastUsage) {
	u.mu.Lock()
	u.last = all
	u.mu.Unlock()
	_, saved := u.unsaved()
	u.setSaved(saved)
}

// datasets returns the datasets whose usage is known.
func (u *usages) datasets() []uuid.UUID {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.last))
}

// unsaved returns the values that bring the disk up to date, and what is on disk after that: see setSaved.
func (u *usages) unsaved() (values map[string]any, saved map[uuid.UUID]usageSummary) {
	u.mu.Lock()
	defer u.mu.Unlock()
	values, saved = map[string]any{}, make(map[uuid.UUID]usageSummary, len(u.last))
	for id, now := range u.last {
		saved[id] = usageSummary{now.Size, now.Usage.Percent(), now.Usage.InodePercent(), now.Fullness}
		if was, ok := u.saved[id]; !ok || was != saved[id] {
			values[usageKey+id.String()] = now
		}
	}
	for id := range u.saved {
		if _, stays := saved[id]; !stays {
			values[usageKey+id.String()] = nil
		}
	}
	return values, saved
}

func (u *usages) setSaved(saved map[uuid.UUID]usageSummary) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.saved = saved
}

// Check adds findings about the volumes with little space left.
func (s *StatusReader) Check(r *condition.List) {
	var lines condition.List
	poolStatus := s.poolStatuses()
	for id, u := range s.usages.full() {
		d, ok := s.Cache.Dataset(id)
		if !ok || d.State != dataset.StateReady {
			continue
		}
		row := condition.VolumeFilling
		if u.Fullness == dataset.Full {
			row = condition.VolumeFull
		}
		lines.Add(row, "volume "+d.Volume, d.SpaceHint(s.roomOf(d, poolStatus(d.Pool)), u.Usage),
			u.Usage.Describe(d.Size))
	}
	slices.SortFunc(lines, func(x, y api.Finding) int { return cmp.Compare(x.Subject, y.Subject) })
	*r = append(*r, lines...)
}

// roomOf returns the room of a dataset in its pool. st is the status of the pool; nil if it is not known.
func (s *StatusReader) roomOf(d dataset.Dataset, st *dataset.PoolStatus) dataset.Room {
	name := s.Pools.Name(d.Pool)
	pool, err := s.Pools.Get(d.Pool)
	if err != nil {
		return dataset.Room{Pool: name, Status: st}
	}
	mounted, err := host.IsMountPoint(s.MountPath(d.ID))
	is := &dataset.DatasetStatus{Mounted: mounted || err != nil}
	return d.RoomIn(name, pool.Info().Capabilities, st, is)
}

// poolStatuses returns a function that returns the status of a pool, and reads it once. The status is nil if the pool
// is offline or does not answer.
func (s *StatusReader) poolStatuses() func(id uuid.UUID) *dataset.PoolStatus {
	known := map[uuid.UUID]*dataset.PoolStatus{}
	return func(id uuid.UUID) *dataset.PoolStatus {
		st, read := known[id]
		if read {
			return st
		}
		if is, err := s.Pools.ReadStatus(s.Ctx, id); err == nil && is.Online {
			st = &is
		}
		known[id] = st
		return st
	}
}

// full returns the usage of the datasets with little space left.
func (u *usages) full() map[uuid.UUID]lastUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[uuid.UUID]lastUsage{}
	for id, last := range u.last {
		if last.Fullness != dataset.NotFull {
			out[id] = last
		}
	}
	return out
}

// forget drops the usage of a dataset that is no longer on this node, or whose data was replaced.
func (u *usages) forget(id uuid.UUID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.last, id)
}
