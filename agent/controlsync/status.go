package controlsync

import (
	"cmp"
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// StatusReader reads the present status of datasets on this node. It remembers how full each dataset was when it was
// last read, in memory and on disk (usage/). Its methods are safe for concurrent use.
type StatusReader struct {
	*Sync

	usages usages
}

// Status reads the present status of a dataset in a pool of this node. It asks the pool, and flushes a mounted volume
// in the background if its pool is nearly full: see mounting.Watcher.Look.
func (s *StatusReader) Status(ctx context.Context, d dataset.Dataset) (st dataset.DatasetStatus) {
	st.ID = d.ID
	defer func() { st.Problem = dataset.Cut(st.Problem) }() // control rejects a longer text
	if r := s.Uses.Get(d.ID); len(r.IDs) > 0 {
		st.Mounts = s.Engines.MountsOf(r)
	}
	st.EngineAliases = host.AliasSpellings(s.Cache, d, s.NodeID)
	path := s.MountPath(d.ID)
	mounted, err := host.IsMountPoint(path)
	if st.Mounted = mounted; mounted {
		st.MountPath = path
	}
	if err != nil {
		st.Problem = err.Error()
		return st
	}
	pool, err := s.Pools.Get(d.Pool)
	if err != nil {
		st.Problem = err.Error()
		return st
	}
	caps := pool.Info().Capabilities
	walks := !caps.OwnFilesystem && !caps.KnowsUsed // it would walk through all files to measure the usage
	var inPool dataset.Size
	var usage *dataset.Usage
	var stopped, uerr error
	if err = s.Pools.Ask(ctx, d.Pool, func(b backends.Pool) {
		if mounted {
			stopped = s.Disks.Examine(d, path)
			s.LostWrites.Look(ctx, b, d, path)
		}
		switch {
		case stopped != nil || walks && mounted:
		case walks:
			_, uerr = b.Stat(ctx, d.ID)
			uerr = host.WithRemedy(ctx, b, d, uerr)
		default:
			mountedAt := ""
			if mounted {
				mountedAt = path
			}
			inPool, usage, uerr = operation.ReadUsage(ctx, b, d, statfs(mountedAt))
			if !mounted {
				uerr = host.WithRemedy(ctx, b, d, uerr)
			}
		}
	}); err == nil {
		err = cmp.Or(stopped, uerr)
		usage, st.Fullness = s.usages.note(d, usage)
		switch {
		case walks:
		case err == nil:
			operation.SetUsed(&st, inPool, usage, caps.OwnFilesystem)
		case usage != nil:
			st.Used, st.Usage = &usage.Used, usage
		}
		s.Disks.Record(d, err)
	}
	switch {
	case err != nil:
		st.Problem = err.Error()
	case walks && mounted:
	default:
		st.Problem = cmp.Or(s.Sizes.Problem(d), s.Throttle.Problems(d), s.LostWrites.Problem(d.ID))
	}
	return st
}

// FindDamaged returns those of some idle datasets whose data is damaged or missing, for example without an image. It
// asks only pools that start no program for it.
func (s *StatusReader) FindDamaged(ctx context.Context, ids []uuid.UUID) (damaged []uuid.UUID) {
	for _, id := range ids {
		d, known := s.Cache.Dataset(id)
		if pool, err := s.Pools.Get(d.Pool); !known || err != nil || !pool.Info().UsedStartsNoProgram {
			continue
		}
		var problem error
		err := s.Pools.Ask(ctx, d.Pool, func(b backends.Pool) {
			if can := b.Info().Capabilities; can.OwnFilesystem || can.KnowsUsed {
				_, problem = b.Used(ctx, id)
			} else { // Used would walk through all files
				_, problem = b.Stat(ctx, id)
			}
		})
		if err == nil && problem != nil {
			damaged = append(damaged, id)
		}
	}
	return damaged
}

// BeforeUnmount records how full a dataset is that will be unmounted, and whether it lost writes. Only a mounted
// filesystem knows that exactly. BeforeUnmount does nothing for a dataset that shares the filesystem of its pool.
func (s *StatusReader) BeforeUnmount(d dataset.Dataset) {
	b, err := s.Pools.Get(d.Pool)
	if err != nil || !b.Info().Capabilities.OwnFilesystem {
		return
	}
	path := s.MountPath(d.ID)
	if mount.ID(path) == 0 {
		return // nothing is mounted, so path shows the filesystem of the root
	}
	s.LostWrites.BeforeUnmount(s.Ctx, b, d, path)
	// The recorded usage must not count blocks that are about to be freed. The unmount would free them in any case.
	if err := fsctl.FreeRemoved(path); err != nil {
		s.LogOf(s.Ctx, d).WithError(err).
			Warn("cannot wait until the blocks of removed files are free: USED may be too high")
	}
	if usage := statfs(path); usage != nil {
		s.usages.note(d, usage)
	}
}

// OperationEnded forgets the usage and the lost writes of a dataset that was restored, purged, or moved to this node,
// because its data is another one. After a move of the whole filesystem, it records the usage that the former home saw.
func (s *StatusReader) OperationEnded(op dataset.Operation, err error) {
	if err != nil {
		return
	}
	switch op.Kind {
	case dataset.OpRestore, dataset.OpPurge, dataset.OpMove:
		s.forget(s.Ctx, op.DatasetID)
	}
	if op.Manifest != nil && op.Manifest.Usage != (dataset.Usage{}) && !op.FileCopy {
		s.usages.note(*op.DatasetRecord, &op.Manifest.Usage)
	}
}

// forget drops what is known about a dataset that is no longer on this node, or whose data was replaced.
func (s *StatusReader) forget(ctx context.Context, id uuid.UUID) {
	s.usages.forget(id)
	s.LostWrites.Forget(ctx, id)
}

// ForgetRemoved drops the recorded usage and the lost writes of datasets whose home is no longer this node.
func (s *StatusReader) ForgetRemoved(ctx context.Context) {
	for _, id := range s.usages.datasets() {
		if _, known := s.Cache.Dataset(id); !known {
			s.forget(ctx, id)
		}
	}
}

const usageKey = "usage/"

// LoadUsages reads from disk how full the datasets were. It is called once, after the cache was loaded and before the
// other methods.
func (s *StatusReader) LoadUsages(ctx context.Context) error {
	all := map[uuid.UUID]lastUsage{}
	err := host.EachDataset(ctx, s.DB, usageKey, func(id uuid.UUID, r lastUsage) error {
		all[id] = r
		return nil
	})
	s.usages.load(all)
	return err
}

// SaveUsages writes to disk how full the datasets are. It leaves out changes that users do not see: see usageSummary.
func (s *StatusReader) SaveUsages(ctx context.Context) error {
	values, saved := s.usages.unsaved()
	if len(values) == 0 {
		return nil
	}
	if err := s.DB.PutAll(ctx, values); err != nil {
		return err
	}
	s.usages.setSaved(saved)
	return nil
}
