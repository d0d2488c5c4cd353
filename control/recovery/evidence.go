package recovery

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Evidence has all information about one dataset, both from the store, which was restored from a backup, and from the
// agents.
type Evidence struct {
	ID           uuid.UUID
	stored       *dataset.Dataset                    // nil if the store has no record of it
	index        uint64                              // of that record
	claims       []nodeReport                        // reports of nodes that claim to be its home
	copyHolders  []nodeReport                        // reports of nodes that have a copy, and so know its home
	copies       map[uuid.UUID]dataset.Copy          // by the nodes that keep them
	relinquished map[uuid.UUID]api.RelinquishedEpoch // epochs that nodes have relinquished
	strays       map[uuid.UUID]bool                  // nodes that have its data, but do not claim to be its home
}

// nodeReport is a node's report about a dataset.
type nodeReport struct {
	api.FoundDataset
	node    uuid.UUID
	present bool // set in a claim of the home: the pool was examined and contains the data
}

// coverage says which nodes reported, and which are confirmed to be fenced.
type coverage struct {
	reported map[uuid.UUID]bool
	fenced   map[uuid.UUID]bool
	pools    map[uuid.UUID]bool // pools that were examined
	silent   bool               // a node neither reported nor is confirmed to be fenced: it may have any data
}

// Decision is the decision about the evidence on a dataset.
type Decision struct {
	action     api.RecordAction // empty if the store is right
	note       string
	Record     dataset.Dataset            // the record as it must be, of the highest known epoch
	report     *nodeReport                // the home's report; nil if only other nodes or the store have a record
	keptCopies map[uuid.UUID]dataset.Copy // by the nodes that have the copies
}

// decide decides which record of a dataset is right: the one with the highest epoch. If several have that epoch, it is
// the one that was written last. The dataset is disputed if two nodes claim to be its home in that epoch. It is also
// disputed if its home relinquished the epoch, and a node that is not fenced did not report: that node may have opened
// a later epoch. It is a pure function.
func (a *Evidence) decide(seen coverage) Decision {
	v := Decision{Record: a.latest(seen)}
	if v.Record.ID == uuid.Nil {
		return Decision{}
	}
	if why := a.whyDisputed(v.Record, seen); why != "" {
		v.action, v.note = api.RecordDisputed, why
		return v
	}
	for i, c := range a.claims {
		if c.node == v.Record.Home {
			v.report = &a.claims[i]
		}
	}
	v.keptCopies = a.reportedCopies(v.Record)
	for _, c := range a.claims {
		if seen.fenced[c.node] && c.node != v.Record.Home && c.Dataset.Epoch >= v.Record.Epoch {
			// the epoch that the fenced node claims has ended
			v.Record.Epoch, v.Record.Request = c.Dataset.Epoch, uuid.Nil
		}
	}
	g, relinquished := a.relinquished[v.Record.Home]
	if relinquished && g.Epoch == v.Record.Epoch && seen.fenced[g.ToNode] {
		// The node to which the epoch was relinquished may have opened the next epoch, so that epoch has ended too.
		v.Record.Epoch, v.Record.Request = v.Record.Epoch+1, uuid.Nil
	}
	switch newer := a.stored == nil || v.Record.Epoch > a.stored.Epoch || !a.matchesStore(v.Record); {
	case v.Record.State == dataset.StatePurging && !newer:
		return Decision{} // the store knows of the purge, which continues after the recovery
	case v.Record.State == dataset.StatePurging:
		v.action = api.RecordPurging
	case newer && v.Record.State == dataset.StateTrashed:
		v.action = api.RecordTrashed
	case a.stored == nil:
		v.action = api.RecordRestored
	case newer && v.Record.Home != a.stored.Home:
		v.action = api.RecordMoved
	case newer:
		v.action = api.RecordChanged
	case a.isDestroyed(seen):
		v.action = api.RecordForgotten
	case relinquished && g.Epoch == v.Record.Epoch:
		// The store may have lost that the home relinquished the epoch. The home does not open it again. If the record
		// kept the epoch, the home would halt the store once more, also if it does not have the dataset.
		v.action, v.note = api.RecordChanged, "its home relinquished this epoch, and gets a new one"
	case v.report == nil && a.homeLacksDataset(v.Record, seen):
		v.action = api.RecordMissing
		v.note = "its home does not have it, but a node that did not respond may: its record stays"
	case !a.sameCopies(v.keptCopies):
		v.action = api.RecordCopies
	}
	return v
}

// matchesStore reports whether the store agrees with the decision.
func (a *Evidence) matchesStore(d dataset.Dataset) bool {
	return a.stored.Epoch == d.Epoch && a.stored.Home == d.Home && a.stored.Request == d.Request &&
		a.stored.State == d.State
}

// latest returns the record with the highest known epoch. If several have that epoch, it returns the one that was
// written last. But a purge always wins against the other records of its epoch. Otherwise the recovery would revive a
// volume that was purged while its pool was offline.
//
// A fenced node is not the home any more, so its claims are ignored. Another node may report that the fenced node is
// the home. latest uses such a report, because it proves that the epoch was opened.
func (a *Evidence) latest(seen coverage) (best dataset.Dataset) {
	index := uint64(0)
	take := func(d dataset.Dataset, at uint64) {
		later := d.Epoch > best.Epoch
		if d.Epoch == best.Epoch {
			purged, bestPurged := d.State == dataset.StatePurging, best.State == dataset.StatePurging
			later = purged && !bestPurged || purged == bestPurged && at > index
		}
		if d.Home != uuid.Nil && (best.ID == uuid.Nil || later) {
			best, index = d, at
		}
	}
	if a.stored != nil {
		take(*a.stored, a.index)
	}
	for _, c := range a.claims {
		if !seen.fenced[c.node] {
			take(c.Dataset, c.Index)
		}
	}
	for _, h := range a.copyHolders {
		take(h.Dataset, 0)
	}
	return best
}

// whyDisputed returns why an operator must decide about a dataset. It returns "" if the evidence is sufficient.
func (a *Evidence) whyDisputed(is dataset.Dataset, seen coverage) string {
	for _, c := range a.claims {
		if c.Dataset.Epoch == is.Epoch && c.node != is.Home && !seen.fenced[c.node] {
			return fmt.Sprintf("two nodes claim epoch %d", is.Epoch)
		}
	}
	g, relinquished := a.relinquished[is.Home]
	if !relinquished || g.Epoch != is.Epoch {
		return ""
	}
	if !seen.reported[g.ToNode] && !seen.fenced[g.ToNode] {
		return fmt.Sprintf(
			"its home gave epoch %d to a node that did not respond, and that node may have the dataset", is.Epoch)
	}
	// The receiving node may have moved the dataset on and kept no copy. Then it has no record of the dataset.
	if seen.silent {
		return fmt.Sprintf(
			"its home relinquished epoch %d, and a node that did not respond may have the dataset", is.Epoch)
	}
	return ""
}

// isDestroyed reports whether the recorded data no longer exists. That is certain only if the home has examined the
// pool, and every node has reported that it has no copy, because the data may have moved to any node.
func (a *Evidence) isDestroyed(seen coverage) bool {
	if seen.silent || !seen.reported[a.stored.Home] || !seen.pools[a.stored.Pool] ||
		len(a.copies) > 0 || len(a.strays) > 0 || len(a.claims) > 0 {
		return false
	}
	return !slices.ContainsFunc(a.stored.Copies, func(n uuid.UUID) bool { return !seen.reported[n] })
}

// homeLacksDataset reports whether the recorded home has examined the pool and does not have the dataset. It returns
// false if the home has the dataset as a copy: the home may not know yet that its copy became the dataset.
func (a *Evidence) homeLacksDataset(is dataset.Dataset, seen coverage) bool {
	behind := func(h nodeReport) bool { return h.node == is.Home && h.Dataset.Epoch < is.Epoch }
	return seen.pools[is.Pool] && !slices.ContainsFunc(a.copyHolders, behind)
}

// reportedCopies returns the copies that nodes reported. If a node wrongly claims to be the home, its data becomes a
// superseded copy, which only an operator discards.
func (a *Evidence) reportedCopies(is dataset.Dataset) map[uuid.UUID]dataset.Copy {
	out := map[uuid.UUID]dataset.Copy{}
	maps.Copy(out, a.copies)
	for _, c := range a.claims {
		if _, known := out[c.node]; !known {
			out[c.node] = dataset.Copy{
				Dataset: a.ID,
				Node:    c.node,
				Pool:    c.Pool,
				Epoch:   c.Dataset.Epoch,
				Kind:    dataset.CopySuperseded,
			}
		}
	}
	delete(out, is.Home)
	return out
}

// sameCopies reports whether the store knows all nodes that have copies. If the store has more copies than nodes
// reported, placement.CopyKeeper and the nodes correct the difference later.
func (a *Evidence) sameCopies(want map[uuid.UUID]dataset.Copy) bool {
	for node := range want {
		if !slices.Contains(a.stored.Copies, node) {
			return false
		}
	}
	return true
}
