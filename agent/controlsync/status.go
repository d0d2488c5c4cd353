package controlsync

import (
	"cmp"
	"context"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// StatusReader reads the present status of datasets on this node. It has no state of its own. Its methods are safe for
// concurrent use.
type StatusReader struct {
	*host.Host
	Pools    *pool.Pools
	Uses     *mounting.UseTable
	Engines  *mounting.Engines
	Disks    *mounting.Disks
	Sizes    *operation.Sizes
	Throttle *throttle.Limits
}

// filled returns how many bytes of a filesystem of the given size are used, computed as df computes Use%. The result is
// size if nothing more can be written, even if the filesystem still has a reserve for itself.
func filled(fs unix.Statfs_t, size dataset.Size) dataset.Size {
	taken, left := dataset.Size(fs.Blocks-fs.Bfree), dataset.Size(fs.Bavail)
	if size <= 0 || taken+left <= 0 {
		return taken * dataset.Size(fs.Bsize)
	}
	return dataset.Size(float64(size) * float64(taken) / float64(taken+left))
}

// Status returns the present status of a dataset.
func (s *StatusReader) Status(ctx context.Context, d dataset.Dataset) (st dataset.DatasetStatus) {
	st.ID = d.ID
	defer func() { st.Problem = dataset.Cut(st.Problem) }() // control accepts no longer text
	if r := s.Uses.Get(d.ID); len(r.IDs) > 0 {
		st.Mounts = s.Engines.MountsOf(r)
	}
	path := s.MountPath(d.ID)
	mounted, err := host.IsMountPoint(path)
	st.Mounted = mounted
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
	var used dataset.Size
	var stopped, uerr error
	if err = s.Pools.Ask(ctx, d.Pool, func(b backends.Pool) {
		var fs unix.Statfs_t
		if mounted {
			stopped = s.Disks.Examine(d, path)
		}
		switch {
		case stopped != nil || walks && mounted:
		case walks:
			_, uerr = b.Stat(ctx, d.ID)
		case mounted && caps.OwnFilesystem && unix.Statfs(path, &fs) == nil:
			used = filled(fs, d.Size)
		default:
			used, uerr = b.Used(ctx, d.ID)
		}
	}); err == nil {
		st.Used, err = used, cmp.Or(stopped, uerr)
		s.Disks.Record(d, err)
	}
	switch {
	case err != nil:
		st.Problem = err.Error()
	case walks && mounted:
	default:
		st.Problem = cmp.Or(s.Sizes.Problem(d), s.Throttle.Problems(d))
	}
	return st
}
