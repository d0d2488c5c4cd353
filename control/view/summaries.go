package view

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// VolumeSummaries lists the live volumes by name, and not by alias, with the fields of api.VolumeSummary. The caller
// must not change the items, because they share memory with later lists.
func (s *Views) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	seen := presenter{s: s, t: record.NewTx(ctx, s.Ledger.Store)}
	return fillPage(seen.t, record.NamesPrefix, p, func(names []store.Entry) ([]api.VolumeSummary, error) {
		return seen.named(names, p.Health)
	})
}

// named returns the volumes with these names, without the aliases. health adds what only their health needs.
func (p *presenter) named(names []store.Entry, health bool) ([]api.VolumeSummary, error) {
	records, err := p.summaries(names)
	if err != nil {
		return nil, err
	}
	out := make([]api.VolumeSummary, 0, len(names))
	for i, r := range records {
		name := strings.TrimPrefix(names[i].Key, record.NamesPrefix)
		if r.Summary == nil || r.State != dataset.StateReady || r.Volume != name {
			continue // an alias, or the volume was removed or renamed since its name was read
		}
		v, err := p.summarize(r)
		if err == nil && health {
			v.Home, v.Pool = r.Home, r.Pool
			if v.CopyDetails, err = p.copies(r.ID, r.Copies); err == nil {
				v.ReplicaShortage, err = p.replicaShortage(r.ID, r.Profile.Replicas.Count, v.CopyDetails)
			}
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// SeenVolumes returns the volumes that an agent has reported since this service started: those that are or were
// mounted. It sets only their names, UUIDs, sizes, statuses and nodes, because metrics ask for thousands every few
// seconds. If it cannot read all of them, it returns the others and an error.
func (s *Views) SeenVolumes(ctx context.Context) ([]api.VolumeSummary, error) {
	var errs []error
	seen := s.Reports.Datasets()
	out := make([]api.VolumeSummary, 0, len(seen))
	nodes, t := map[uuid.UUID]string{}, record.NewTx(ctx, s.Ledger.Store)
	for some := range slices.Chunk(seen, store.MaxOps) {
		keys := make([]string, len(some))
		for i, id := range some {
			keys[i] = record.DatasetKey(id)
		}
		entries, err := s.Ledger.Store.GetMany(ctx, keys)
		if err != nil {
			return out, errors.Join(append(errs, record.ReadError(ctx, err))...)
		}
		for i, id := range some {
			if entries[i].Index == 0 {
				s.Reports.ForgetDataset(id)
				continue
			}
			d, err := s.summaries.decode(id, entries[i])
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if d.State != dataset.StateReady {
				continue
			}
			name, err := cached(&nodes, d.Home, t.NodeName)
			if err != nil {
				if errs = append(errs, err); dataset.KindOf(err) == dataset.ErrCorrupt {
					continue
				}
				return out, errors.Join(errs...)
			}
			status := s.statusOf(d.ID, d.Home, d.Pool, d.Pool.String())
			out = append(out, api.VolumeSummary{
				ID: d.ID, Volume: d.Volume, Size: d.Size, Status: status, Node: name,
			})
		}
	}
	return out, errors.Join(errs...)
}

// indexedSummary is the summary of a record with the index of the record. The summary is nil if there is no record.
type indexedSummary struct {
	*dataset.Summary
	index uint64
}

// summaries returns the summaries of the datasets with these names, in their order. It also reads, in a second request,
// the nodes, their sessions and the pools that presenting them needs.
func (p *presenter) summaries(names []store.Entry) ([]indexedSummary, error) {
	ids, keys := make([]uuid.UUID, len(names)), make([]string, len(names))
	for i, e := range names {
		var err error
		if ids[i], err = record.DecodeClaim(e.Key, e.Value); err != nil {
			return nil, err
		}
		keys[i] = record.DatasetKey(ids[i])
	}
	entries, err := p.s.Ledger.Store.GetMany(p.t.Context(), keys)
	if err != nil {
		return nil, record.ReadError(p.t.Context(), err)
	}
	out := make([]indexedSummary, len(entries))
	needed := map[uuid.UUID]bool{uuid.Nil: true}
	keys = keys[:0]
	for i, e := range entries {
		if e.Index == 0 {
			continue
		}
		d, err := p.s.summaries.decode(ids[i], e)
		if err != nil {
			return nil, err
		}
		out[i] = indexedSummary{d, e.Index}
		if !needed[d.Home] {
			keys = p.s.appendNode(keys, d.Home)
		}
		if !needed[d.Pool] {
			keys = append(keys, record.PoolKey(d.Pool))
		}
		needed[d.Home], needed[d.Pool] = true, true
	}
	return out, p.t.Prefetch(keys)
}

// summarize returns a dataset as a table of volumes shows it.
func (p *presenter) summarize(d indexedSummary) (v api.VolumeSummary, err error) {
	v = api.VolumeSummary{
		ID: d.ID, Volume: d.Volume, Aliases: d.Aliases, State: d.State, Profile: d.Profile, Size: d.Size,
		Labels: d.Labels, Protected: d.Protected, Created: d.Created,
	}
	var pool dataset.Pool
	if v.Node, pool, err = p.place(d.Home, d.Pool); err != nil {
		return v, err
	}
	v.PoolName, v.Backend = pool.Name, pool.Backend
	if v.Unreachable, err = p.isUnreachable(d.Home); err != nil {
		return v, err
	}
	v.Status = p.s.statusOf(d.ID, d.Home, d.Pool, pool.Name)
	if len(d.SharedMounts) > 0 {
		if v.SharedMountDetails, err = p.sharedMounts(d.Dataset()); err != nil {
			return v, err
		}
	}
	v.Snapshots, err = p.s.counts.snapshots(p.t, d.ID, d.index)
	return v, err
}

// summaries remembers the summaries of records, because decoding a record takes longer than all else that a list does
// for it. A summary is used as long as the record has the same index and the same bytes. So it is right also if a store
// that was restored from a backup gives an index a second time.
type summaries struct{ memory[knownSummary] }

type knownSummary struct {
	*dataset.Summary
	index uint64
	hash  uint64 // of the bytes of the record
}

// maxSummaries bounds the memory; above it all summaries are dropped. A summary takes about 400 bytes.
const maxSummaries = 1 << 16

var hashSeed = maphash.MakeSeed()

// decode returns the summary of a record. The caller must not change it.
func (c *summaries) decode(id uuid.UUID, e store.Entry) (*dataset.Summary, error) {
	hash := maphash.Bytes(hashSeed, e.Value)
	if known, ok := c.get(id); ok && known.index == e.Index && known.hash == hash {
		return known.Summary, nil
	}
	var d dataset.Summary
	if err := record.Decode(e.Key, e.Value, &d); err != nil {
		return nil, err
	}
	c.put(id, knownSummary{&d, e.Index, hash}, maxSummaries)
	return &d, nil
}

// counts remembers how many snapshots datasets have. Every service that adds or removes a snapshot also writes the
// dataset. So a count is right as long as the dataset has the same index.
type counts struct{ memory[count] }

type count struct {
	index uint64
	n     int
}

// maxCounts bounds the memory; above it all counts are dropped.
const maxCounts = 1 << 17

// snapshots returns the number of snapshots of a dataset. index is that of its record, which t has read.
func (c *counts) snapshots(t *record.Tx, ds uuid.UUID, index uint64) (int, error) {
	if known, ok := c.get(ds); ok && known.index == index && index != 0 {
		return known.n, nil
	}
	entries, err := t.List(record.SnapshotPrefix(ds), "", 0)
	if err != nil || index == 0 {
		return len(entries), err
	}
	c.put(ds, count{index, len(entries)}, maxCounts)
	return len(entries), nil
}

// memory is what is remembered of datasets. Safe for concurrent use.
type memory[V any] struct {
	mu        sync.Mutex
	byDataset map[uuid.UUID]V
}

func (m *memory[V]) get(ds uuid.UUID) (v V, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known = m.byDataset[ds]
	return v, known
}

// put stores the value of a dataset. If there are values of most datasets already, it first drops all of them.
func (m *memory[V]) put(ds uuid.UUID, v V, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byDataset == nil || len(m.byDataset) >= most {
		m.byDataset = map[uuid.UUID]V{}
	}
	m.byDataset[ds] = v
}

func (m *memory[V]) forget(ds uuid.UUID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byDataset, ds)
}

// Remembers reports whether anything is remembered of a dataset.
func (s *Views) Remembers(ds uuid.UUID) bool {
	_, counted := s.counts.get(ds)
	_, summarized := s.summaries.get(ds)
	return counted || summarized
}

// Forget drops what is remembered of a dataset that does not exist any more.
func (s *Views) Forget(ds uuid.UUID) {
	s.counts.forget(ds)
	s.summaries.forget(ds)
}
