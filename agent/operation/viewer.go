package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// Get returns the volume to which a tool refers. It fails with ErrNotFound for a spelling that this engine has never
// used and that contradicts the volume: the engine then calls Create, which reports the contradiction. It also finds a
// volume that is mounted by an alias that was dropped. If control is unreachable, it answers from the record of the
// spellings that this engine has used.
func (o *Operations) Get(ctx context.Context, ref dataset.Reference) (plugin.Volume, error) {
	d, err := o.FindOrMounted(ctx, ref)
	if errors.Is(err, dataset.ErrUnavailable) {
		if id, used := o.UsedAs(ref); used {
			return plugin.Volume{Name: ref.Name, Spelling: ref.Spelling, Status: map[string]any{
				"dataset": id, "volume": ref.Name, "problem": "its state is unknown: " + err.Error(),
			}}, nil
		}
	}
	if err != nil {
		return plugin.Volume{}, err
	}
	// docker volume ls then lists the name that the engine asks for. Podman lists each volume by its name. For an
	// unknown caller, all names that were used are listed, so others are not added.
	if used := o.Spellings.Used(d); len(used) > 0 && plugin.ToolOf(ctx) != plugin.Podman &&
		plugin.Caller(ctx).IsKnown() && d.HasName(ref.Name) {
		if err := o.Spellings.Record(ctx, d, ref); err != nil {
			return plugin.Volume{}, err
		}
	}
	v := plugin.Volume{
		Name: d.Volume, Spelling: ref.Spelling, CreatedAt: d.Created, Status: o.statusMap(ctx, d),
	}
	if d.Home == o.NodeID || d.Profile.Access == dataset.AccessMany {
		v.Mountpoint = o.MountPath(d.ID)
	}
	return v, nil
}

// statusMap returns what docker volume inspect prints as Status.
func (o *Operations) statusMap(ctx context.Context, d dataset.Dataset) map[string]any {
	m := map[string]any{
		"dataset": d.ID, "volume": d.Volume, "profile": d.Profile.Name, "revision": d.Profile.Revision,
		"node": o.NodeName, "pool": o.Pools.Name(d.Pool),
	}
	if d.Size > 0 {
		m["size"] = int64(d.Size)
	}
	if d.Origin != nil {
		m["origin"] = d.Origin
	}
	if d.Protected {
		m["protected"] = true
	}
	if d.ReadOnly {
		m["readonly"] = true
	}
	if len(d.Labels) > 0 {
		m["labels"] = d.Labels
	}
	if d.Home != o.NodeID {
		m["node"] = o.Leases.Nodes.Name(d.Home)
		if _, shared := o.SharedMounts.Get(d.ID); shared {
			m["guest"], m["mounts"] = o.NodeName, o.Engines.MountsOf(o.Uses.Get(d.ID))
		}
		return m
	}
	st := o.status.Status(ctx, d)
	m["mounted"], m["mounts"] = st.Mounted, st.Mounts
	for key, bytes := range map[string]*dataset.Size{"used": st.Used, "in_pool": st.InPool} {
		if bytes != nil {
			m[key] = int64(*bytes)
		}
	}
	if st.Mounts == nil {
		m["mounts"] = []dataset.Mount{}
	}
	problem := st.Problem
	if list, err := o.snapshotList(ctx, d); err != nil {
		problem = strings.TrimPrefix(problem+"; its snapshots are unknown: "+err.Error(), "; ")
	} else {
		m["snapshots"] = list
	}
	if problem != "" {
		m["problem"] = problem
	}
	return m
}

// snapshotsShown is the maximum number of snapshots in Status: the newest ones.
const snapshotsShown = 20

// snapshotTime is how long control may take to list the snapshots. The start of a container asks five times for
// its volume, and does not need them.
const snapshotTime = time.Second

func (o *Operations) snapshotList(ctx context.Context, d dataset.Dataset) ([]map[string]any, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTime,
		dataset.Errorf(dataset.ErrUnavailable, "control did not respond within %s", snapshotTime))
	defer cancel()
	var newest []dataset.Snapshot
	for page := (api.Page{}); ; {
		list, err := o.Control.Snapshots(ctx, d.ID.String(), page)
		if err != nil {
			return nil, err
		}
		newest = append(newest, list.Items...)
		newest = newest[max(0, len(newest)-snapshotsShown):]
		if page.After = list.Next; page.After == "" {
			break
		}
	}
	out := []map[string]any{}
	for _, s := range newest {
		e := map[string]any{"id": s.ID, "created": s.Created.Format(time.RFC3339)}
		if s.Name != "" {
			e["name"] = s.Name
		}
		out = append(out, e)
	}
	return out, nil
}

// Path returns where a volume is, or will be, mounted.
func (o *Operations) Path(ctx context.Context, ref dataset.Reference) (string, error) {
	d, err := o.FindOrMounted(ctx, ref)
	if err != nil {
		return "", err
	}
	return o.MountPath(d.ID), nil
}

// List returns the volumes whose home is this node, those with a copy here, and those that the engine has used, in
// the spellings that the engine uses. This node has records of these volumes, so List includes them even if control
// does not answer. With ListAll, List adds all other volumes of the cluster in the spellings of their creation, if
// control answers.
func (o *Operations) List(ctx context.Context) ([]plugin.Volume, error) {
	list := o.withoutUnneeded(ctx, o.Cache.List(o.NodeID))
	if o.ListAll {
		others, err := o.others(ctx, list)
		if err != nil {
			o.Log.WithError(err).Warn("docker volume ls lacks the volumes of other nodes")
		}
		list = append(list, others...)
	}
	out := make([]plugin.Volume, len(list))
	for i, l := range list {
		out[i] = plugin.Volume{Name: l.Name, Spelling: l.Spelling, Mountpoint: o.MountPath(l.Dataset)}
	}
	return out, nil
}

// withoutUnneeded leaves out the spellings of a volume that the engine used before the last one, and by which no
// container may need the volume.
func (o *Operations) withoutUnneeded(ctx context.Context, list []host.ListEntry) []host.ListEntry {
	lines := map[uuid.UUID]int{}
	for _, l := range list {
		lines[l.Dataset]++
	}
	if len(lines) == len(list) {
		return list // each volume has one spelling
	}
	needed := o.Needed(ctx)
	return slices.DeleteFunc(list, func(l host.ListEntry) bool {
		d, known := o.Cache.DatasetOrCopy(l.Dataset)
		if lines[l.Dataset] == 1 || !known {
			return false
		}
		used := o.Spellings.Used(d)
		isMounted := slices.ContainsFunc(o.Engines.MountsOf(o.Uses.Get(d.ID)), func(m dataset.Mount) bool {
			return len(m.Names) == 0 || slices.Contains(m.Names, l.Spelling)
		})
		return len(used) > 0 && used[len(used)-1] != l.Spelling && !isMounted && !needed(d, l.Spelling)
	})
}

// listTime is how long control may take for the list of volumes. An engine waits a minute for its list.
const listTime = 20 * time.Second

// others returns the volumes of other nodes.
func (o *Operations) others(ctx context.Context, own []host.ListEntry) (others []host.ListEntry, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listTime,
		dataset.Errorf(dataset.ErrUnavailable, "control did not list the volumes within %s", listTime))
	defer cancel()
	listed, spellings := map[uuid.UUID]bool{}, map[string]bool{}
	for _, l := range own {
		listed[l.Dataset], spellings[l.Spelling] = true, true
	}
	for page := (api.Page{}); ; {
		list, err := o.Control.Volumes(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, v := range list.Items {
			// A spelling in the records of this node can be of a volume that was deleted meanwhile.
			if sp := host.DefaultSpelling(v.Dataset); !listed[v.ID] && !spellings[sp] {
				others = append(others, host.ListEntry{Name: v.Volume, Spelling: sp, Dataset: v.ID})
			}
		}
		if page.After = list.Next; page.After == "" {
			return others, nil
		}
	}
}

// Help is what docker volume create -o help prints.
func (o *Operations) Help(ctx context.Context) string {
	var b strings.Builder
	b.WriteString("options:\n")
	for _, o := range dataset.OptionHelp() {
		fmt.Fprintf(&b, "  %-24s %s\n", o.Name+"="+o.Value, o.Help)
	}
	profiles, err := o.Control.Profiles(ctx)
	if err != nil {
		fmt.Fprintf(&b, "profiles: %v\n", err)
		return b.String()
	}
	b.WriteString("profiles:\n")
	for _, p := range profiles {
		fmt.Fprintf(&b, "  %-24s %s\n", p.Name, p.Description)
	}
	return b.String()
}

// measureTime bounds the measurement of a snapshot.
const measureTime = 5 * time.Second

// SnapshotSpace returns how many bytes the deletion of a snapshot would free: those that only this snapshot uses. It
// fails with dataset.ErrUnsupported if the pool does not know that number, with ErrNotFound if the dataset is not on
// this node, and with ErrUnavailable if the measurement takes longer than measureTime.
func (o *Operations) SnapshotSpace(ctx context.Context, ref string) (out api.SnapshotSpace, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, measureTime, dataset.Errorf(dataset.ErrUnavailable,
		"the snapshot has too many extents to count them within %s", measureTime))
	defer cancel()
	s, err := o.Control.Snapshot(ctx, "", ref)
	if err != nil {
		return out, err
	}
	d, ok := o.Cache.Dataset(s.Dataset)
	if !ok {
		return out, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on this node", s.Dataset)
	}
	pool, err := o.Pools.Online(ctx, d.Pool)
	if err != nil {
		return out, err
	}
	m, ok := pool.(backends.SnapshotMeasurer)
	if !ok {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: its pool does not know which bytes only one snapshot uses", d.Volume)
	}
	size, err := m.UniqueSize(ctx, d.ID, s.ID)
	return api.SnapshotSpace{Snapshot: s.ID, Unique: size}, err
}
