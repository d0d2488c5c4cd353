package recovery

import (
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// collectEvidence collects the records of the store and the reports of the agents, by dataset.
func collectEvidence(t *record.Tx, byNode map[uuid.UUID]api.Holdings) (list []*Evidence, err error) {
	all := map[uuid.UUID]*Evidence{}
	of := func(id uuid.UUID) *Evidence {
		a := all[id]
		if a == nil {
			a = &Evidence{
				ID:           id,
				copies:       map[uuid.UUID]dataset.Copy{},
				relinquished: map[uuid.UUID]api.RelinquishedEpoch{},
				strays:       map[uuid.UUID]bool{},
			}
			all[id] = a
		}
		return a
	}
	entries, err := t.List(record.DatasetsPrefix, "", 0)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var d dataset.Dataset
		if err := record.Decode(e.Key, e.Value, &d); err != nil {
			return nil, err
		}
		a := of(d.ID)
		a.stored, a.index = &d, e.Index
	}
	for _, node := range slices.SortedFunc(maps.Keys(byNode),
		func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) }) {
		h := byNode[node]
		for _, f := range h.Datasets {
			if f.Dataset.ID == uuid.Nil {
				return nil, dataset.Errorf(dataset.ErrInvalid,
					"recover: node %s has a dataset without a UUID in pool %s", node, f.Pool)
			}
			if f.Dataset.Home != node {
				of(f.Dataset.ID).strays[node] = true
				continue
			}
			a := of(f.Dataset.ID)
			a.claims = append(a.claims, nodeReport{f, node, slices.Contains(h.ExaminedPools, f.Pool)})
		}
		for _, k := range h.Copies {
			a := of(k.Dataset)
			k.Copy.Node = node
			a.copies[node] = k.Copy
			if k.Record != nil {
				f := api.FoundDataset{Pool: k.Pool, Dataset: *k.Record}
				a.copyHolders = append(a.copyHolders, nodeReport{FoundDataset: f, node: node})
			}
		}
		for _, g := range h.Relinquished {
			of(g.Dataset).relinquished[node] = g
		}
	}
	return slices.Collect(maps.Values(all)), nil
}
