package dataset

import (
	"cmp"
	"slices"
	"time"
)

// Moment is a point in the life of a dataset. Each epoch has the clock of its own home, so
// that times of two epochs say nothing of which was first; the epochs do.
type Moment struct {
	Epoch uint64
	Taken time.Time
}

// Compare is negative when m is before o, positive when it is after.
func (m Moment) Compare(o Moment) int {
	return cmp.Or(cmp.Compare(m.Epoch, o.Epoch), m.Taken.Compare(o.Taken))
}

// At is the moment that a snapshot holds.
func (s Snapshot) At() Moment { return Moment{s.Epoch, s.Created} }

// At is the moment up to which a copy is whole.
func (c Copy) At() Moment { return Moment{c.Epoch, c.Taken} }

// At is the moment that a dataset goes on from.
func (l Loss) At() Moment { return Moment{l.Epoch, l.Taken} }

// Of reports whether a snapshot is of what was lost: of an epoch that ended with it, and
// later than what the dataset went on from.
func (l Loss) Of(s Snapshot) bool {
	return s.Epoch <= l.Over && s.At().Compare(l.At()) > 0 && !slices.Contains(l.Later, s.ID)
}

// Lost reports whether a dataset has gone on without what a snapshot holds.
func (d Dataset) Lost(s Snapshot) bool {
	return slices.ContainsFunc(d.Losses, func(l Loss) bool { return l.Of(s) })
}
