// Package view shows the records of a cluster: to its users volumes, snapshots and pools, with the last reports of
// nodes, and to each agent the changes of the datasets, copies and operations of its node.
//
// Package view changes nothing in the store. SeenVolumes and Sync drop reports (reports.Latest) about datasets that no
// longer exist, or that the node no longer has. In memory it keeps only the numbers of snapshots (counts) and the
// decoded summaries of records (summaries), each under a mutex.
//
// A new field of api.Volume is filled in by presenter, and a new field of a node by package membership. A new kind of
// record for agents gets a field of api.Sync: a record of one dataset is read in syncOne, any other in syncRead.
package view

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Views lists and shows records. Its methods are safe for concurrent use.
type Views struct {
	Ledger    *record.Ledger
	Reports   *reports.Latest
	Copies    *placement.CopyKeeper
	schedules Schedules
	counts    counts
	summaries summaries
}

// Schedules knows when snapshots and backups of a dataset are due.
type Schedules interface {
	// NextSnapshot returns when the next scheduled snapshot of a dataset is due.
	NextSnapshot(t *record.Tx, d dataset.Dataset) (time.Time, error)
	// AddBackups adds to a volume the state of its scheduled backups, and the verifications of its backups.
	AddBackups(t *record.Tx, v *api.Volume) error
}

// New returns Views.
func New(k *placement.CopyKeeper, s Schedules) *Views {
	return &Views{Ledger: k.Ledger, Reports: k.Reports, Copies: k, schedules: s}
}

// After returns the key after which a page of the keys under prefix begins.
func After(prefix string, p api.Page) string {
	if p.After == "" {
		return ""
	}
	return prefix + p.After
}

// Volume returns a volume by name or by a unique prefix of its dataset's UUID. It fails with dataset.ErrNotFound only
// if the store has answered that there is no such volume. It also fails with ErrAmbiguous and ErrUnavailable.
func (s *Views) Volume(ctx context.Context, ref string) (v api.Volume, err error) {
	err = s.Ledger.View(ctx, func(t *record.Tx) error {
		d, err := t.Volume(ref)
		if err != nil {
			return err
		}
		v, err = s.Present(t, d)
		return err
	})
	// Nodes read a volume before they mount it. So a damaged record of a snapshot or backup must not fail the request.
	if err == nil {
		v.NextSnapshot, err = s.schedules.NextSnapshot(record.NewTx(ctx, s.Ledger.Store), v.Dataset)
		if dataset.KindOf(err) == dataset.ErrCorrupt {
			err = nil
		}
	}
	if err == nil {
		err = s.schedules.AddBackups(record.NewTx(ctx, s.Ledger.Store), &v)
		if dataset.KindOf(err) == dataset.ErrCorrupt {
			err = nil
		}
	}
	return v, err
}

// Volumes lists the live volumes by name, and not by alias.
func (s *Views) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return s.listDatasets(ctx, record.NamesPrefix, p, func(name string, value []byte) (uuid.UUID, error) {
		return record.DecodeClaim(record.NamesPrefix+name, value)
	}, func(name string, d dataset.Dataset) bool { return d.State == dataset.StateReady && d.Volume == name })
}

// Trash lists the datasets in the trash by UUID, and those whose home has not destroyed them yet.
func (s *Views) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return s.listDatasets(ctx, record.TrashPrefix, p, func(id string, _ []byte) (uuid.UUID, error) {
		return record.ParseKey(record.TrashPrefix+id, record.TrashPrefix)
	}, func(_ string, d dataset.Dataset) bool { return d.State != dataset.StateReady && d.Home != uuid.Nil })
}

// listDatasets lists the datasets of the keys under prefix. It leaves out a dataset that has left the list since its
// key was read.
func (s *Views) listDatasets(ctx context.Context, prefix string, p api.Page,
	id func(string, []byte) (uuid.UUID, error), still func(string, dataset.Dataset) bool) (api.List[api.Volume],
	error) {
	t := record.NewTx(ctx, s.Ledger.Store)
	seen := presenter{s: s, t: t}
	return fillPage(t, prefix, p, func(entries []store.Entry) (items []api.Volume, err error) {
		of := make([]uuid.UUID, len(entries))
		for i, e := range entries {
			if of[i], err = id(strings.TrimPrefix(e.Key, prefix), e.Value); err != nil {
				return nil, err
			}
		}
		records, err := seen.prefetch(of)
		if err != nil {
			return nil, err
		}
		for i, e := range entries {
			d := records[i]
			if d.ID == uuid.Nil || !still(strings.TrimPrefix(e.Key, prefix), d) {
				continue
			}
			v, err := seen.present(d)
			if err != nil {
				return nil, err
			}
			items = append(items, v)
		}
		return items, nil
	})
}

// fillPage returns a page of the items for the keys under prefix. present returns the items for some keys, and leaves
// out the keys that the list does not have, such as aliases. fillPage then reads further keys, so that only the last
// page can have fewer items than its size.
func fillPage[T any](t *record.Tx, prefix string, p api.Page,
	present func([]store.Entry) ([]T, error)) (out api.List[T], err error) {
	out.Items = []T{}
	for after, limit := After(prefix, p), p.Size(); len(out.Items) < limit; {
		want := limit - len(out.Items)
		entries, err := t.List(prefix, after, want)
		if err != nil {
			return api.List[T]{}, err
		}
		items, err := present(entries)
		if err != nil {
			return api.List[T]{}, err
		}
		out.Items, out.Next = append(out.Items, items...), ""
		if len(entries) < want {
			break
		}
		after = entries[want-1].Key
		out.Next = strings.TrimPrefix(after, prefix)
	}
	return out, nil
}

// presenter converts records to the form that users see, which has additional fields. If several datasets refer to the
// same node or pool, it reads that record once.
type presenter struct {
	s     *Views
	t     *record.Tx
	nodes map[uuid.UUID]string
	// unreachable has whether nodes are unreachable
	unreachable map[uuid.UUID]bool
	pools       map[uuid.UUID]dataset.Pool
	// shortages is for how many volumes the shortage of replicas was explained
	shortages int
}

// prefetch returns the records of some datasets, in their order. A dataset without a record has a zero record. It also
// reads, in a second request, the nodes, their sessions and the pools that presenting these datasets needs.
func (p *presenter) prefetch(ids []uuid.UUID) ([]dataset.Dataset, error) {
	keys := make([]string, 0, 2*len(ids))
	for _, id := range ids {
		keys = append(keys, record.DatasetKey(id), record.LeaseKey(id))
	}
	if err := p.t.Prefetch(keys); err != nil {
		return nil, err
	}
	// Decoding the records takes most of the time of a list, so each is decoded once.
	records := make([]dataset.Dataset, len(ids))
	needed := map[uuid.UUID]bool{}
	keys = keys[:0]
	for i, id := range ids {
		if _, err := p.t.Get(record.DatasetKey(id), &records[i]); err != nil {
			return nil, err
		}
		d := &records[i]
		if d.Home != uuid.Nil && !needed[d.Home] {
			keys = p.s.appendNode(keys, d.Home)
		}
		if d.Pool != uuid.Nil && !needed[d.Pool] {
			keys = append(keys, record.PoolKey(d.Pool))
		}
		needed[d.Home], needed[d.Pool] = true, true
	}
	return records, p.t.Prefetch(keys)
}

// appendNode appends the keys that presenting a node needs.
func (s *Views) appendNode(keys []string, node uuid.UUID) []string {
	keys = append(keys, record.NodeKey(node))
	if s.Ledger.Shared {
		keys = append(keys, record.LiveNodeKey(node))
	}
	return keys
}

// Present returns a dataset as users see it.
func (s *Views) Present(t *record.Tx, d dataset.Dataset) (api.Volume, error) {
	p := presenter{s: s, t: t}
	return p.present(d)
}

func (p *presenter) present(d dataset.Dataset) (v api.Volume, err error) {
	v = api.Volume{Dataset: d}
	var pool dataset.Pool
	if v.Node, pool, err = p.place(d.Home, d.Pool); err != nil {
		return v, err
	}
	v.PoolName, v.Backend = pool.Name, pool.Backend
	if v.Unreachable, err = p.isUnreachable(d.Home); err != nil {
		return v, err
	}
	v.Status = p.s.statusOf(d.ID, d.Home, d.Pool, pool.Name)
	if err := p.presentDetails(&v); err != nil {
		return v, err
	}
	if v.SharedMountDetails, err = p.sharedMounts(d); err != nil {
		return v, err
	}
	v.Snapshots, err = p.s.counts.snapshots(p.t, d.ID, p.t.Index(record.DatasetKey(d.ID)))
	return v, err
}

func (p *presenter) isUnreachable(node uuid.UUID) (bool, error) {
	return cached(&p.unreachable, node, func(id uuid.UUID) (bool, error) { return p.s.isUnreachable(p.t, id) })
}

// isUnreachable reports whether a node is unreachable: it has no session, or is silent. A single host has no sessions
// and is always reachable. The commit of t does not check the result.
func (s *Views) isUnreachable(t *record.Tx, node uuid.UUID) (bool, error) {
	if !s.Ledger.Shared || node == uuid.Nil {
		return false, nil
	}
	if s.Reports.IsSilent(node, s.Ledger.Clock.Steady()) {
		return true, nil
	}
	alive, err := t.Peek(record.LiveNodeKey(node), &record.Alive{})
	if alive {
		return false, nil // the key exists as long as the session, even if its value is damaged
	}
	return err == nil, err
}

// place returns the name of a home and the record of a pool.
func (p *presenter) place(home, pool uuid.UUID) (node string, in dataset.Pool, err error) {
	if node, err = cached(&p.nodes, home, p.t.NodeName); err != nil {
		return node, in, err
	}
	in, err = cached(&p.pools, pool, func(id uuid.UUID) (in dataset.Pool, err error) {
		_, err = p.t.Get(record.PoolKey(id), &in)
		return in, err
	})
	return node, in, err
}

// presentDetails adds the lease, the copies, and why a deletion is pending.
func (p *presenter) presentDetails(v *api.Volume) error {
	var lease dataset.Lease
	there, err := p.t.Get(record.LeaseKey(v.ID), &lease)
	if err != nil {
		return err
	}
	if there {
		v.Lease = &lease
	}
	if v.State == dataset.StatePurging {
		v.Pending = p.whyPending(v.Dataset, v.Node)
	}
	if v.CopyDetails, err = p.copies(v.ID, v.Copies); err != nil || v.State != dataset.StateReady {
		return err
	}
	v.ReplicaShortage, err = p.replicaShortage(v.ID, v.Profile.Replicas.Count, v.CopyDetails)
	return err
}

// maxShortages bounds for how many volumes of one page the shortage of replicas is explained. All of them usually have
// the same reason, and to find it all pools are compared with the profile.
const maxShortages = 20

// replicaShortage returns why a live volume has fewer replicas than its profile requires; "" if it has enough, or if
// control will add them.
func (p *presenter) replicaShortage(id uuid.UUID, want int, copies []api.CopyDetail) (string, error) {
	for _, c := range copies {
		if c.Kind == dataset.CopyReplica {
			want--
		}
	}
	if want <= 0 || p.shortages == maxShortages {
		return "", nil
	}
	p.shortages++
	var d dataset.Dataset
	if there, err := p.t.Get(record.DatasetKey(id), &d); err != nil || !there {
		return "", err
	}
	return p.s.Copies.Shortage(p.t, d)
}

// statusOf returns the last reported status of a dataset, which reports.Latest.Shown chooses; nil if there is none.
// pool is the UUID of the pool of the dataset, and poolName its name. A home examines unused volumes only from time to
// time. So if the home reports the pool as offline, statusOf returns a status that says so.
func (s *Views) statusOf(id, home, pool uuid.UUID, poolName string) *dataset.DatasetStatus {
	st, reported := s.Reports.Shown(id, home), s.Reports.Pool(pool)
	if reported == nil || reported.Online || reported.Quarantined || st != nil && st.IsUnusable() {
		return st
	}
	now := dataset.DatasetStatus{ID: id}
	if st != nil {
		now = *st
	}
	now.Problem = dataset.Cut(fmt.Sprintf("pool %s is offline: %s", poolName, reported.Reason))
	return &now
}

// whyPending says why the data of a condemned dataset still exists. node is the name of its home.
func (p *presenter) whyPending(d dataset.Dataset, node string) string {
	switch st := p.s.Reports.Pool(d.Pool); {
	case st == nil:
		return "node " + node + " has not reported the state of its pool"
	case !st.Online:
		return cmp.Or(st.Reason, "its pool is offline")
	}
	return "node " + node + " is destroying it"
}

// copies returns the copies of a dataset on some nodes.
func (p *presenter) copies(id uuid.UUID, nodes []uuid.UUID) (all []api.CopyDetail, err error) {
	for _, node := range nodes {
		var c api.CopyDetail
		var there bool
		if c.Copy, there, err = p.s.Reports.CurrentCopy(p.t, node, id); err != nil {
			return all, err
		}
		if !there {
			continue
		}
		if c.NodeName, err = cached(&p.nodes, node, p.t.NodeName); err != nil {
			return all, err
		}
		if c.Kind == dataset.CopyReplica && c.Snapshot == uuid.Nil {
			if c.Problem, err = p.whyEmpty(c.Copy); err != nil {
				return all, err
			}
		}
		if last, heard := p.s.Reports.Copy(node, id); heard && c.Kind == dataset.CopyReplica && c.Problem == "" {
			c.Problem = last.Problem // why it cannot be refreshed
		}
		all = append(all, c)
	}
	return all, nil
}

// whyEmpty returns why a replica is still empty, if its node reported a reason; "" if it may be in progress.
func (p *presenter) whyEmpty(c dataset.Copy) (string, error) {
	st := p.s.Reports.Pool(c.Pool)
	switch {
	case st != nil && st.Online:
		return "", nil
	case st != nil && st.Quarantined:
		return "its pool is held: " + st.Reason, nil
	case st != nil:
		return "its pool is offline: " + st.Reason, nil
	}
	var f dataset.Facts
	known, err := p.t.Get(record.FactsKey(c.Node), &f)
	if _, has := f.Pool(c.Pool); err != nil || !known || has {
		return "", err
	}
	return "its node does not have pool " + c.Pool.String() + " (drover doctor, on that node)", nil
}

func cached[V any](known *map[uuid.UUID]V, id uuid.UUID, read func(uuid.UUID) (V, error)) (V, error) {
	if v, ok := (*known)[id]; ok {
		return v, nil
	}
	v, err := read(id)
	if err == nil {
		if *known == nil {
			*known = map[uuid.UUID]V{}
		}
		(*known)[id] = v
	}
	return v, err
}

// PresentSharedMount returns a shared mount as users see it.
func (s *Views) PresentSharedMount(t *record.Tx, d dataset.Dataset, g dataset.SharedMount, names *map[uuid.UUID]string,
) (v api.SharedMountDetail, err error) {
	v = api.SharedMountDetail{SharedMount: g, Exclusive: g.Node == d.Home}
	if names == nil {
		names = &map[uuid.UUID]string{}
	}
	if v.NodeName, err = cached(names, g.Node, t.NodeName); err != nil {
		return v, err
	}
	if v.Fenced, err = t.Get(record.FencedKey(g.Node), &record.Fenced{}); err != nil {
		return v, err
	}
	if s.Ledger.Shared {
		_, there, err := membership.LivingSession(t, g.Node)
		if err != nil {
			return v, err
		}
		v.Unreachable = !there
	}
	if st := s.Reports.Dataset(d.ID, g.Node); st != nil {
		v.MountCount, v.Problem = len(st.Mounts), st.Problem
	}
	return v, nil
}

func (p *presenter) sharedMounts(d dataset.Dataset) (all []api.SharedMountDetail, err error) {
	for _, g := range d.SharedMounts {
		v, err := p.s.PresentSharedMount(p.t, d, g, &p.nodes)
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Pools lists all pools of all nodes, ordered by the names of the nodes and then of the pools: the recorded pools,
// and the configured pools that could be neither opened nor created. The latter have no UUID.
func (s *Views) Pools(ctx context.Context) ([]api.Pool, error) {
	t := record.NewTx(ctx, s.Ledger.Store)
	list, err := record.ListAll[dataset.Pool](t, record.PoolsPrefix)
	if err != nil {
		return nil, err
	}
	failed := s.Reports.FailedPools()
	var keys []string
	for _, p := range list {
		keys = s.appendNode(keys, p.Node)
	}
	for _, p := range failed {
		keys = s.appendNode(keys, p.Node)
	}
	slices.Sort(keys)
	if err := t.Prefetch(slices.Compact(keys)); err != nil {
		return nil, err
	}
	out := make([]api.Pool, 0, len(list))
	for _, p := range list {
		name, err := t.NodeName(p.Node)
		if err != nil {
			return nil, err
		}
		out = append(out, api.Pool{Pool: p, NodeName: name, Status: s.Reports.Pool(p.ID)})
	}
	for _, u := range failed {
		i := slices.IndexFunc(out, func(p api.Pool) bool { return p.Node == u.Node && p.Name == u.Name })
		if i >= 0 {
			if out[i].Status == nil { // the pool is recorded, but its node could not open it
				out[i].Status = u.Status
			}
			continue
		}
		known, err := t.Peek(record.NodeKey(u.Node), &dataset.Node{})
		if err != nil {
			return nil, err
		}
		if known { // otherwise the node was removed since its last report
			out = append(out, u)
		}
	}
	of := presenter{s: s, t: t}
	for i := range out {
		if out[i].Unreachable, err = of.isUnreachable(out[i].Node); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(x, y api.Pool) int {
		return cmp.Or(strings.Compare(x.NodeName, y.NodeName), strings.Compare(x.Name, y.Name),
			bytes.Compare(x.ID[:], y.ID[:]))
	})
	return out, nil
}

// CheckNoSharedMounts fails with dataset.ErrInUse while other nodes have shared mounts of a dataset, and names the
// nodes. Nodes that are confirmed to be fenced do not count. what completes the error: "cannot <what> volume".
func (s *Views) CheckNoSharedMounts(t *record.Tx, d dataset.Dataset, what string) error {
	var who []string
	for _, g := range d.SharedMounts {
		if g.Node == d.Home {
			continue // the agent of the home checks its mounts itself
		}
		v, err := s.PresentSharedMount(t, d, g, nil)
		if err != nil {
			return err
		}
		switch {
		case v.Fenced:
		case v.Unreachable:
			who = append(who, fmt.Sprintf("%s (unreachable; once it is off for good: drover node fence %s)", v.NodeName,
				v.NodeName))
		case v.MountCount == 1:
			who = append(who, v.NodeName+" (1 mount)")
		default:
			who = append(who, fmt.Sprintf("%s (%d mounts)", v.NodeName, v.MountCount))
		}
	}
	if len(who) == 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: it is in use on %s: stop its containers "+
		"there first", what, d.Volume, strings.Join(who, " and "))
}
