package controlsync

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// poolTime is how long a request waits for the status of the pools. After that, the reported figures are shown.
const poolTime = time.Second

// LiveReader is the API of control. It shows the present uses of the volumes whose home is this node and the present
// space of the pools of this node, and otherwise answers as control does. Its methods are safe for concurrent use.
type LiveReader struct {
	api.Service
	sync *Sync
}

// LiveState returns the API of control with the present uses of this host's volumes, and the present space of its
// pools.
func (s *Sync) LiveState(control api.Service) api.Service { return &LiveReader{control, s} }

// Volume implements api.Users.
func (r *LiveReader) Volume(ctx context.Context, ref string) (api.Volume, error) {
	v, err := r.Service.Volume(ctx, ref)
	if err == nil {
		r.look().correct(v.ID, v.Node, &v.Status)
	}
	return v, err
}

// Volumes implements api.Users.
func (r *LiveReader) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	l, err := r.Service.Volumes(ctx, p)
	now := r.look()
	for i := range l.Items {
		v := &l.Items[i]
		now.correct(v.ID, v.Node, &v.Status)
	}
	return l, err
}

// VolumeSummaries implements api.Users.
func (r *LiveReader) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	l, err := r.Service.VolumeSummaries(ctx, p)
	now := r.look()
	for i := range l.Items {
		v := &l.Items[i]
		now.correct(v.ID, v.Node, &v.Status)
	}
	return l, err
}

// Pools implements api.Users. Whether a pool is online is the report of its node.
func (r *LiveReader) Pools(ctx context.Context) ([]api.Pool, error) {
	list, err := r.Service.Pools(ctx)
	if !slices.ContainsFunc(list, r.isOnline) {
		return list, err
	}
	ctx, cancel := context.WithTimeout(ctx, poolTime)
	defer cancel()
	for _, now := range r.sync.Pools.Status(ctx) {
		i := slices.IndexFunc(list, func(p api.Pool) bool { return p.ID == now.ID })
		if i >= 0 && r.isOnline(list[i]) && now.Online && now.Size > 0 {
			st := *list[i].Status
			st.Size, st.Free = now.Size, now.Free
			list[i].Status = &st
		}
	}
	return list, err
}

// isOnline reports whether a pool belongs to this node and was reported as online.
func (r *LiveReader) isOnline(p api.Pool) bool {
	return p.NodeName == r.sync.NodeName && p.Status != nil && p.Status.Online
}

// look is the set of datasets that are in use on this node at one moment.
type look struct {
	*LiveReader
	inUse map[uuid.UUID]bool
}

func (r *LiveReader) look() look {
	l := look{r, map[uuid.UUID]bool{}}
	for _, id := range r.sync.Uses.InUse() {
		l.inUse[id] = true
	}
	return l
}

// correct replaces the uses in the status of a dataset by the present ones, if this node is its home. It does not
// change the status that st points to, which control may keep. It leaves a missing status: the use alone would look
// like an empty volume.
func (l look) correct(id uuid.UUID, node string, st **dataset.DatasetStatus) {
	if *st == nil || node != l.sync.NodeName || !l.inUse[id] && len((*st).Mounts) == 0 {
		return
	}
	now := **st
	now.Mounts = nil
	if l.inUse[id] {
		now.Mounts = l.sync.Engines.MountsOf(l.sync.Uses.Get(id))
	}
	if (len(now.Mounts) > 0) != now.Mounted { // the reported mount point is older than the uses
		path := l.sync.MountPath(id)
		if mounted, err := host.IsMountPoint(path); err == nil {
			if !mounted {
				path = ""
			}
			now.Mounted, now.MountPath = mounted, path
		}
	}
	*st = &now
}
