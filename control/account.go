package control

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// account is all that the store and agents say of one dataset, when the store went back.
type account struct {
	id     uuid.UUID
	stored *dataset.Dataset           // nil: it is not on record
	index  uint64                     // of that
	claims []holding                  // of nodes that say that they are its home
	told   []holding                  // of nodes that have a copy, by which they know of its home
	copies map[uuid.UUID]dataset.Copy // by the nodes that keep them
	given  map[uuid.UUID]api.Given    // epochs that nodes have given up
	strays map[uuid.UUID]bool         // nodes where it lies, that do not say that they are its home
}

// holding is what a node says of a dataset.
type holding struct {
	api.Found
	node uuid.UUID
	lies bool // its pool was looked into, and it is there; of a dataset of its own
}

// roll is who told what it holds, and who was vouched for.
type roll struct {
	heard  map[uuid.UUID]bool
	fenced map[uuid.UUID]bool
	pools  map[uuid.UUID]bool // that were looked into
	silent bool               // there is a node of which neither is so: it may have anything
}

// verdict is what an account comes to.
type verdict struct {
	action string // as of api.Differs; empty: the store is right
	note   string
	is     dataset.Dataset            // what the record is to be, of the epoch that is known
	from   *holding                   // whose that is; nil: only others, or the store, know of it
	keep   map[uuid.UUID]dataset.Copy // by the nodes that have them
}

// judge decides what is right of a dataset: of all that is said of it the highest epoch,
// and of that the latest change. It is disputed when two nodes claim that epoch, or when
// it was given up to a node that was not heard, which may have opened the next one. Pure.
func (a *account) judge(r roll) verdict {
	v := verdict{is: a.latest(r)}
	if v.is.ID == uuid.Nil {
		return verdict{}
	}
	if why := a.disputed(v.is, r); why != "" {
		v.action, v.note = "disputed", why
		return v
	}
	for i, c := range a.claims {
		if c.node == v.is.Home {
			v.from = &a.claims[i]
		}
	}
	v.keep = a.kept(v.is)
	for _, c := range a.claims {
		if r.fenced[c.node] && c.node != v.is.Home && c.Dataset.Epoch >= v.is.Epoch {
			v.is.Epoch, v.is.Request = c.Dataset.Epoch, uuid.Nil // what it claims is over
		}
	}
	if g, given := a.given[v.is.Home]; given && g.Epoch == v.is.Epoch && r.fenced[g.To] {
		// The one that it was given up to may have opened the next one: it is over as well.
		v.is.Epoch, v.is.Request = v.is.Epoch+1, uuid.Nil
	}
	switch newer := a.stored == nil || v.is.Epoch > a.stored.Epoch || !a.says(v.is); {
	case newer && v.is.State == dataset.StateTrashed:
		v.action = "trashed"
	case a.stored == nil:
		v.action = "restored"
	case newer && v.is.Home != a.stored.Home:
		v.action = "moved"
	case newer:
		v.action = "changed"
	case a.destroyed(r):
		v.action = "forgotten"
	case v.from == nil && a.headless(v.is, r):
		v.action, v.note = "missing", "its home looked, and does not have it; a node that is not heard may: "+
			"it stays on record"
	case !a.sameCopies(v.keep):
		v.action = "copies"
	}
	return v
}

// says reports whether the store says what was found right.
func (a *account) says(d dataset.Dataset) bool {
	return a.stored.Epoch == d.Epoch && a.stored.Home == d.Home && a.stored.Request == d.Request &&
		a.stored.State == d.State
}

// latest is the record of the highest epoch that anybody knows of; of that the one which
// was written last. What a node that writes no more claims itself is over; what others
// know of it is not: its epoch was open there, and they gave theirs up for it.
func (a *account) latest(r roll) (best dataset.Dataset) {
	index := uint64(0)
	take := func(d dataset.Dataset, at uint64) {
		if d.Home != uuid.Nil && d.State != dataset.StatePurging &&
			(best.ID == uuid.Nil || d.Epoch > best.Epoch || d.Epoch == best.Epoch && at > index) {
			best, index = d, at
		}
	}
	if a.stored != nil {
		take(*a.stored, a.index)
	}
	for _, c := range a.claims {
		if !r.fenced[c.node] {
			take(c.Dataset, c.Index)
		}
	}
	for _, h := range a.told {
		take(h.Dataset, 0)
	}
	return best
}

// disputed says why a person has to decide; empty: nobody does.
func (a *account) disputed(is dataset.Dataset, r roll) string {
	for _, c := range a.claims {
		if c.Dataset.Epoch == is.Epoch && c.node != is.Home && !r.fenced[c.node] {
			return fmt.Sprintf("two nodes claim epoch %d", is.Epoch)
		}
	}
	g, given := a.given[is.Home]
	if given && g.Epoch == is.Epoch && !r.heard[g.To] && !r.fenced[g.To] {
		return fmt.Sprintf("its home gave up epoch %d to a node that is not heard of, and may have it", is.Epoch)
	}
	return ""
}

// destroyed reports whether what the store has on record is nowhere any more: its home
// looked, and nobody has a copy, or could have one: no node is there that was not asked,
// since it may have gone to any of them.
func (a *account) destroyed(r roll) bool {
	if r.silent || !r.heard[a.stored.Home] || !r.pools[a.stored.Pool] || len(a.copies) > 0 || len(a.strays) > 0 ||
		len(a.claims) > 0 {
		return false
	}
	return !slices.ContainsFunc(a.stored.Copies, func(n uuid.UUID) bool { return !r.heard[n] })
}

// headless reports whether the home that the store has on record looked, and does not have
// the dataset: neither by its own word (what it claims), nor by that of a copy of which it
// has not heard yet that it became the dataset.
func (a *account) headless(is dataset.Dataset, r roll) bool {
	behind := func(h holding) bool { return h.node == is.Home && h.Dataset.Epoch < is.Epoch }
	return r.pools[is.Pool] && !slices.ContainsFunc(a.told, behind)
}

// kept are the copies that nodes said they have; a home that was overtaken has one that
// nobody lets go of but a person.
func (a *account) kept(is dataset.Dataset) map[uuid.UUID]dataset.Copy {
	out := map[uuid.UUID]dataset.Copy{}
	maps.Copy(out, a.copies)
	for _, c := range a.claims {
		if _, known := out[c.node]; !known {
			out[c.node] = dataset.Copy{
				Dataset: a.id,
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

// sameCopies reports whether the store knows of the nodes that have copies. What it
// knows besides is made right by replicas and by those nodes.
func (a *account) sameCopies(want map[uuid.UUID]dataset.Copy) bool {
	for node := range want {
		if !slices.Contains(a.stored.Copies, node) {
			return false
		}
	}
	return true
}
