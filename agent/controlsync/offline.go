package controlsync

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Records are the records that this node keeps. *host.Cache implements it.
type Records interface {
	IDs() []uuid.UUID // of the datasets whose home is this node
	Dataset(id uuid.UUID) (dataset.Dataset, bool)
	CopyIDs() []uuid.UUID // of the datasets of which this node keeps a copy
	Copy(id uuid.UUID) (api.AssignedCopy, bool)
}

// localPools are the pools of this node. *Sync implements it.
type localPools interface {
	PoolStates(ctx context.Context) []api.Pool // with their present status
	PoolOf(id uuid.UUID) (dataset.Pool, bool)  // without its status
	// SnapshotsOf returns the snapshots of a dataset whose home is this node, as they are in its pool.
	SnapshotsOf(ctx context.Context, d dataset.Dataset) ([]dataset.Snapshot, error)
}

// PoolStates implements localPools.
func (s *Sync) PoolStates(ctx context.Context) []api.Pool {
	var out []api.Pool
	for _, st := range s.Pools.Status(ctx) {
		if p := s.Pools.ByID(st.ID); p != nil {
			out = append(out, api.Pool{Pool: p.Pool, NodeName: s.NodeName, Status: &st})
		}
	}
	return out
}

// PoolOf implements localPools.
func (s *Sync) PoolOf(id uuid.UUID) (dataset.Pool, bool) {
	p := s.Pools.ByID(id)
	if p == nil {
		return dataset.Pool{}, false
	}
	return p.Pool, true
}

// SnapshotsOf implements localPools. A disk that hangs does not block the answers about all other pools.
func (s *Sync) SnapshotsOf(ctx context.Context, d dataset.Dataset) ([]dataset.Snapshot, error) {
	var e backends.Entry
	var statErr error
	err := s.Pools.Ask(ctx, d.Pool, func(b backends.Pool) { e, statErr = b.Stat(ctx, d.ID) })
	if err != nil {
		return nil, err
	}
	return e.Snapshots, statErr
}

// OfflineReader is the API of control, as an agent serves it to the users of its host. It passes each request to
// control. If control is unreachable, it answers requests for volumes, snapshots, the trash, pools and the version
// itself. It answers requests for snapshots only for volumes whose home is this node. Its methods are safe for
// concurrent use.
type OfflineReader struct {
	api.Service
	records Records
	pools   localPools
	nodes   interface{ Name(id uuid.UUID) string }
	status  interface {
		Status(ctx context.Context, d dataset.Dataset) dataset.DatasetStatus
	}
	answers interface{ LastAnswer() time.Time }
	clock   clock.Clock
	version string // of this program
	started time.Time
}

// Offline returns the API of control for the users of this host. While control is unreachable, it answers from the
// records of this host, if they contain the answer.
func (s *Sync) Offline(control api.Service) api.Service {
	return &OfflineReader{
		Service: control, records: s.Cache, pools: s, nodes: s.Leases.Nodes, status: s.Status, answers: s.Reporter,
		clock: s.Clock, version: s.Version, started: s.Clock.Now(),
	}
}

const (
	// silentAfter is how long control may be silent. After that, Reader waits only controlTime for each answer of
	// control. Heartbeats are sent every few seconds.
	silentAfter = 15 * time.Second
	// controlTime is how long a request waits for a control that has been silent.
	controlTime = 2 * time.Second
)

// knownAt returns when control last answered. If it has never answered, knownAt returns the time of the start, because
// the records are not newer than that.
func (r *OfflineReader) knownAt() time.Time {
	if at := r.answers.LastAnswer(); !at.IsZero() {
		return at
	}
	return r.started
}

// ask asks control, and then this node if control is unreachable. local returns false if this node does not know the
// answer.
func ask[T any](ctx context.Context, r *OfflineReader, control func(context.Context) (T, error),
	local func() (T, bool, error)) (T, error) {
	asking, cancel := ctx, context.CancelFunc(func() {})
	if r.clock.Now().Sub(r.knownAt()) > silentAfter {
		asking, cancel = context.WithTimeoutCause(ctx, controlTime,
			dataset.Errorf(dataset.ErrUnavailable, "control did not respond within %s", controlTime))
	}
	defer cancel()
	v, err := control(asking)
	if err == nil || ctx.Err() != nil || asking.Err() == nil && dataset.KindOf(err) != dataset.ErrUnavailable {
		return v, err
	}
	if cause := context.Cause(asking); cause != nil && dataset.KindOf(err) != dataset.ErrUnavailable {
		err = cause
	}
	own, known, localErr := local()
	if localErr != nil {
		return v, errors.Join(err, localErr)
	}
	if !known {
		return v, err
	}
	api.SetKnownAt(ctx, r.knownAt())
	return own, nil
}

// Volumes implements api.Users.
func (r *OfflineReader) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return ask(ctx, r, func(ctx context.Context) (api.List[api.Volume], error) { return r.Service.Volumes(ctx, p) },
		func() (api.List[api.Volume], bool, error) {
			return r.page(ctx, p, dataset.StateReady, func(d dataset.Dataset) string { return d.Volume }), true, nil
		})
}

// VolumeSummaries implements api.Users.
func (r *OfflineReader) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	return ask(ctx, r,
		func(ctx context.Context) (api.List[api.VolumeSummary], error) {
			return r.Service.VolumeSummaries(ctx, p)
		},
		func() (api.List[api.VolumeSummary], bool, error) {
			l := r.page(ctx, p, dataset.StateReady, func(d dataset.Dataset) string { return d.Volume })
			return api.Summarize(l), true, nil
		})
}

// Trash implements api.Users.
func (r *OfflineReader) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return ask(ctx, r, func(ctx context.Context) (api.List[api.Volume], error) { return r.Service.Trash(ctx, p) },
		func() (api.List[api.Volume], bool, error) {
			id := func(d dataset.Dataset) string { return d.ID.String() }
			return r.page(ctx, p, dataset.StateTrashed, id), true, nil
		})
}

// page returns a page of the datasets in a state. cursor returns the key of a dataset. The keys are unique, and the
// list is sorted by them.
func (r *OfflineReader) page(ctx context.Context, p api.Page, state dataset.State,
	cursor func(dataset.Dataset) string) (out api.List[api.Volume]) {
	var all []dataset.Dataset
	for _, d := range r.datasets() {
		if d.State == state && cursor(d) > p.After {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b dataset.Dataset) int { return cmp.Compare(cursor(a), cursor(b)) })
	if size := p.Size(); len(all) > size {
		all = all[:size]
		out.Next = cursor(all[size-1])
	}
	for _, d := range all {
		out.Items = append(out.Items, r.volume(ctx, d))
	}
	return out
}

// Volume implements api.Users.
func (r *OfflineReader) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return ask(ctx, r, func(ctx context.Context) (api.Volume, error) { return r.Service.Volume(ctx, ref) },
		func() (api.Volume, bool, error) {
			d, known := r.find(ref)
			if !known {
				return api.Volume{}, false, nil
			}
			return r.volume(ctx, d), true, nil
		})
}

// Snapshots implements api.Users.
func (r *OfflineReader) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	return ask(ctx, r,
		func(ctx context.Context) (api.List[dataset.Snapshot], error) { return r.Service.Snapshots(ctx, ref, p) },
		func() (out api.List[dataset.Snapshot], known bool, err error) {
			if p.After != "" { // the previous page is from control, and its order is not known here
				return out, false, nil
			}
			out.Items, known, err = r.snapshots(ctx, ref)
			return out, known, err
		})
}

// Snapshot implements api.Users.
func (r *OfflineReader) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return ask(ctx, r,
		func(ctx context.Context) (dataset.Snapshot, error) { return r.Service.Snapshot(ctx, ref, snapshot) },
		func() (out dataset.Snapshot, known bool, err error) {
			all, _, err := r.snapshots(ctx, ref)
			for _, s := range all {
				if s.Name != "" && s.Name == snapshot && ref != "" || isPrefix(snapshot, s.ID) {
					if known {
						return out, false, nil // several match
					}
					out, known = s, true
				}
			}
			return out, known, err
		})
}

// snapshots returns the snapshots of a volume, or of all volumes whose home is this node. It fails if a pool cannot be
// read, because a list that lacks some snapshots looks complete.
func (r *OfflineReader) snapshots(ctx context.Context, ref string) (all []dataset.Snapshot, known bool, err error) {
	var of []dataset.Dataset
	if ref == "" {
		for _, id := range r.records.IDs() {
			if d, ok := r.records.Dataset(id); ok && d.State == dataset.StateReady {
				of = append(of, d)
			}
		}
	} else {
		d, ok := r.find(ref)
		if _, home := r.records.Dataset(d.ID); !ok || !home { // a copy can lack snapshots of its home
			return nil, false, nil
		}
		of = []dataset.Dataset{d}
	}
	slices.SortFunc(of, func(a, b dataset.Dataset) int { return cmp.Compare(a.Volume, b.Volume) })
	for _, d := range of {
		list, err := r.pools.SnapshotsOf(ctx, d)
		if err != nil {
			return nil, false, err
		}
		all = append(all, list...)
	}
	return all, true, nil
}

// Version implements api.Users. Without control, the kind of its store is not known.
func (r *OfflineReader) Version(ctx context.Context) (api.Version, error) {
	return ask(ctx, r, r.Service.Version, func() (api.Version, bool, error) {
		return api.Version{Version: r.version, API: "v1", Started: r.started}, true, nil
	})
}

// Pools implements api.Users.
func (r *OfflineReader) Pools(ctx context.Context) ([]api.Pool, error) {
	return ask(ctx, r, r.Service.Pools, func() ([]api.Pool, bool, error) { return r.pools.PoolStates(ctx), true, nil })
}

// datasets returns the records of the datasets whose home is this node, and of those of which it keeps a copy.
func (r *OfflineReader) datasets() (all []dataset.Dataset) {
	for _, id := range r.records.IDs() {
		if d, ok := r.records.Dataset(id); ok {
			all = append(all, d)
		}
	}
	for _, id := range r.records.CopyIDs() {
		if k, ok := r.records.Copy(id); ok && k.Record != nil {
			all = append(all, *k.Record)
		}
	}
	return all
}

// find returns the dataset of a volume, by name, alias or NAME@PROFILE, or the only one whose UUID begins with ref.
func (r *OfflineReader) find(ref string) (found dataset.Dataset, ok bool) {
	name, profile, at := strings.Cut(ref, "@")
	for _, d := range r.datasets() {
		if d.State == dataset.StateReady && d.HasName(name) && (!at || d.Profile.Name == profile) {
			return d, true
		}
	}
	for _, d := range r.datasets() {
		if !isPrefix(ref, d.ID) {
			continue
		}
		if ok {
			return dataset.Dataset{}, false // several match
		}
		found, ok = d, true
	}
	return found, ok
}

// isPrefix reports whether a UUID begins with ref, and ref is long enough to name an object.
func isPrefix(ref string, id uuid.UUID) bool {
	return dataset.CheckPrefix(ref) == nil && strings.HasPrefix(id.String(), strings.ToLower(ref))
}

func (r *OfflineReader) volume(ctx context.Context, d dataset.Dataset) api.Volume {
	v := api.Volume{Dataset: d, Node: r.nodes.Name(d.Home)}
	if p, ok := r.pools.PoolOf(d.Pool); ok {
		v.PoolName, v.Backend = p.Name, p.Backend
	}
	if _, home := r.records.Dataset(d.ID); home {
		st := r.status.Status(ctx, d)
		v.Status = &st
		if list, err := r.pools.SnapshotsOf(ctx, d); err == nil {
			v.Snapshots = len(list)
		}
	}
	return v // only control knows the state of the copies on other nodes
}
