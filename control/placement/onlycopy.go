package placement

import (
	"context"
	"github.com/google/uuid"
	"strings"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// OnlyCopy describes a node's copy of a dataset that is the only one with some data. If What is "", the node has no
// such copy.
type OnlyCopy struct {
	Dataset dataset.Dataset
	What    string
	Command string // how to inspect or save the data, for errors
}

// FindOnlyCopy returns the copy of a dataset on a node if it is the only one with some data. That is a superseded head,
// or the last known complete copy of a volume whose home is lost or unhealthy.
func (s *CopyKeeper) FindOnlyCopy(t *record.Tx, node, id uuid.UUID) (o OnlyCopy, err error) {
	var c dataset.Copy
	there, err := t.Get(record.CopyKey(node, id), &c)
	if err != nil || !there {
		return o, err
	}
	d, err := t.Dataset(id)
	if err != nil || d.State == dataset.StatePurging {
		return o, err
	}
	name, err := t.NodeName(node)
	if err != nil {
		return o, err
	}
	if c.Kind == dataset.CopySuperseded {
		return OnlyCopy{d, "the superseded head of " + d.Volume + " on node " + name,
			"drover copy mount " + record.RefTo(d) + " " + name + " shows it"}, nil
	}
	if c.SupersededForGood() || c.Snapshot == uuid.Nil || d.Home == uuid.Nil {
		return o, nil
	}
	if unhealthy, _, err := s.checkHome(t, d); err != nil || !unhealthy {
		return o, err
	}
	var others []dataset.Copy
	for _, n := range record.WithoutNode(d.Copies, node) {
		var other dataset.Copy
		if _, err := t.Get(record.CopyKey(n, id), &other); err != nil {
			return o, err
		}
		if other.Promotable() {
			others = append(others, other)
		}
	}
	if _, usable, err := s.usableFirst(t, others); err != nil || usable > 0 {
		return o, err
	}
	home, err := t.NodeName(d.Home)
	return OnlyCopy{d, "the last complete copy of " + d.Volume + ", whose home " + home + " is lost or cannot open it",
		"drover volume move " + record.RefTo(d) + " --force --fenced " + home}, err
}

// CheckNoOnlyCopy fails with dataset.ErrInUse while a node has the only copy of some data. It does not fail for a
// node that was removed already, because the data there cannot be reached any more.
func (s *CopyKeeper) CheckNoOnlyCopy(ctx context.Context, ref string) error {
	t := record.NewTx(ctx, s.Ledger.Store)
	n, err := t.FindNode(ref)
	if err != nil || !n.Removed.IsZero() {
		return err
	}
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(n.ID))
	if err != nil {
		return err
	}
	var what, then []string
	for _, c := range copies {
		o, err := s.FindOnlyCopy(record.NewTx(ctx, s.Ledger.Store), n.ID, c.Dataset)
		if err != nil {
			return err
		}
		if o.What == "" {
			continue
		}
		if len(what) == copiesShown {
			what = append(what, "and more")
			break
		}
		what, then = append(what, o.What), append(then, o.Command)
	}
	if len(what) == 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrInUse, "node %s has data that no other node has: %s (%s; --force "+
		"--dry-run shows what would be removed from the store)", n.Name, strings.Join(what, ", "),
		strings.Join(then, "; "))
}
