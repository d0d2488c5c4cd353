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

// moment is that of a snapshot that was taken at a time, unless its order says another.
func moment(epoch uint64, taken, order time.Time) Moment {
	if !order.IsZero() {
		taken = order
	}
	return Moment{epoch, taken}
}

// At is the moment that a snapshot holds.
func (s Snapshot) At() Moment { return moment(s.Epoch, s.Created, s.Order) }

// TakenAfter returns a snapshot with the time of its own clock at which it is taken, and later
// than all others of its epoch, whatever that clock showed when they were taken.
func (s Snapshot) TakenAfter(others []Snapshot, now time.Time) Snapshot {
	s.Created, s.Order = now.UTC().Round(0), time.Time{}
	for _, o := range others {
		if o.Epoch == s.Epoch && o.At().Compare(s.At()) >= 0 {
			s.Order = o.At().Taken.Add(1)
		}
	}
	return s
}

// At is the moment up to which a copy is whole.
func (c Copy) At() Moment { return moment(c.Epoch, c.Taken, c.Order) }

// At is the moment that a dataset goes on from.
func (l Loss) At() Moment { return moment(l.Epoch, l.Taken, l.Order) }

// Of reports whether a snapshot is of what was lost: of an epoch that ended with it, and
// later than what the dataset went on from.
func (l Loss) Of(s Snapshot) bool {
	return s.Epoch <= l.Over && s.At().Compare(l.At()) > 0 && !slices.Contains(l.Later, s.ID)
}

// Lost reports whether a dataset has gone on without what a snapshot holds.
func (d Dataset) Lost(s Snapshot) bool {
	return slices.ContainsFunc(d.Losses, func(l Loss) bool { return l.Of(s) })
}
