package witness

import (
	"fmt"
	"slices"
)

// Loss is the loss that a promotion announced beforehand. The promoted copy lacks the writes after the time After,
// under the epoch Epoch or an older one.
type Loss struct {
	Dataset string
	Epoch   uint64 // the epoch that ended with the promotion
	After   int64  // CLOCK_BOOTTIME: beginning of the last snapshot of the promoted copy
}

// Raised is an epoch that replaced the previous one on the same node, which may have writers. This happens when a
// store is recovered after it was restored from an older backup.
type Raised struct {
	Dataset string
	Epoch   uint64
	Node    string
}

// Check returns what is wrong, the worst first, or nothing. For each dataset it reports:
//   - two nodes that wrote under one epoch, which has only one home
//   - a write under an epoch that ended after the first write under a newer epoch had begun
//   - a write that was fsynced, is in no copy, and is not covered by an announced loss
//   - a token in a copy that no writer wrote
//
// A copy may have or lack writes that failed, and writes whose end was not noted.
func Check(entries []Entry, copies []Copy, losses []Loss, raised ...Raised) []string {
	byDataset := map[string][]Entry{}
	for _, e := range entries {
		byDataset[e.Dataset] = append(byDataset[e.Dataset], e)
	}
	for _, c := range copies {
		if _, ok := byDataset[c.Dataset]; !ok {
			byDataset[c.Dataset] = nil
		}
	}
	var shared, overlaps, lost, foreign []string
	for _, id := range sorted(byDataset) {
		list := byDataset[id]
		of := slices.DeleteFunc(slices.Clone(copies), func(c Copy) bool { return c.Dataset != id })
		announced := slices.DeleteFunc(slices.Clone(losses), func(l Loss) bool { return l.Dataset != id })
		shared = append(shared, sharedEpochs(id, list)...)
		overlaps = append(overlaps, overlapping(id, list, raised)...)
		lost = append(lost, missing(id, list, of, announced)...)
		foreign = append(foreign, unwritten(id, list, of)...)
	}
	return slices.Concat(shared, overlaps, lost, foreign)
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// sharedEpochs returns the epochs under which several nodes had their file open, even if their writes failed, and even
// if not at the same time.
func sharedEpochs(id string, entries []Entry) (bad []string) {
	by, told := map[uint64]Entry{}, map[uint64]bool{}
	for _, e := range entries {
		first, known := by[e.Epoch]
		switch {
		case !known:
			by[e.Epoch] = e
		case e.Node != first.Node && !told[e.Epoch]:
			told[e.Epoch] = true
			bad = append(bad, fmt.Sprintf("dataset %s: two nodes in one epoch: %q on %s and %q on %s", id,
				first.Token, first.Node, e.Token, e.Node))
		}
	}
	return bad
}

// overlapping compares each epoch with all newer ones: each write under it must end before the first write under
// a newer one begins. A failed write may end later, since a fence makes writes fail.
func overlapping(id string, entries []Entry, raised []Raised) []string {
	first, last := map[uint64]Entry{}, map[uint64]Entry{}
	var epochs []uint64
	for _, e := range entries {
		if f, ok := first[e.Epoch]; !ok {
			epochs = append(epochs, e.Epoch)
			first[e.Epoch] = e
		} else if e.Begin < f.Begin {
			first[e.Epoch] = e
		}
		if l, ok := last[e.Epoch]; e.Err == "" && (!ok || e.End > l.End) {
			last[e.Epoch] = e
		}
	}
	slices.Sort(epochs)
	same := func(old, newer Entry) bool {
		for e := old.Epoch + 1; e <= newer.Epoch; e++ {
			if !slices.Contains(raised, Raised{id, e, old.Node}) {
				return false
			}
		}
		return old.Node == newer.Node
	}
	var bad []string
	for i, old := range epochs {
		l, ok := last[old]
		for _, newer := range epochs[i+1:] {
			if f := first[newer]; ok && l.End > f.Begin && !same(l, f) {
				bad = append(bad, fmt.Sprintf("dataset %s: two epochs at once: %q on %s ended %d ns after "+
					"%q on %s had begun",
					id, l.Token, l.Node, l.End-f.Begin, f.Token, f.Node))
			}
		}
	}
	return bad
}

// missing returns the writes that were fsynced and are in no copy.
func missing(id string, entries []Entry, copies []Copy, losses []Loss) []string {
	gone := slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool {
		return e.Err != "" ||
			slices.ContainsFunc(copies, func(c Copy) bool { return c.Tokens[e.Token] }) ||
			slices.ContainsFunc(losses, func(l Loss) bool { return e.Epoch <= l.Epoch && e.End > l.After })
	})
	if len(gone) == 0 {
		return nil
	}
	slices.SortFunc(gone, func(a, b Entry) int { return int(a.End - b.End) })
	var names []string
	for _, c := range copies {
		names = append(names, fmt.Sprintf("%s (%d tokens)", c.Name, len(c.Tokens)))
	}
	a, z := gone[0], gone[len(gone)-1]
	return []string{fmt.Sprintf("dataset %s: %d writes that were flushed are lost, from %q on %s to %q on "+
		"%s; looked in %q; announced: %+v",
		id, len(gone), a.Token, a.Node, z.Token, z.Node, names, losses)}
}

// unwritten returns the tokens that no writer wrote. A writer that was killed may have written one more token
// than it noted.
func unwritten(id string, entries []Entry, copies []Copy) []string {
	type life struct {
		writer string
		epoch  uint64
	}
	newest := map[life]int{}
	for _, e := range entries {
		k := life{e.Writer, e.Epoch}
		newest[k] = max(newest[k], e.Seq)
	}
	var bad []string
	for _, c := range copies {
		for t := range c.Tokens {
			if n := newest[life{t.Writer, t.Epoch}]; t.Seq > n+1 || t.Seq < 1 {
				bad = append(bad, fmt.Sprintf("dataset %s: %s has %q, which nobody wrote", id, c.Name, t))
			}
		}
	}
	slices.Sort(bad)
	return bad
}
