package dataset

import (
	"cmp"
	"slices"
	"time"
)

// Moment is a point in the life of a dataset. Each epoch is timed by the clock of its own home, so times of two
// epochs do not say which was first; the epochs do.
type Moment struct {
	Epoch uint64
	Taken time.Time
}

// Compare is negative if m is before o, positive if it is after.
func (m Moment) Compare(o Moment) int {
	return cmp.Or(cmp.Compare(m.Epoch, o.Epoch), m.Taken.Compare(o.Taken))
}

// moment returns the moment of a snapshot from its time, or from its order if it has one.
func moment(epoch uint64, taken, order time.Time) Moment {
	if !order.IsZero() {
		taken = order
	}
	return Moment{epoch, taken}
}

// At returns the moment of a snapshot.
func (s Snapshot) At() Moment { return moment(s.Epoch, s.Created, s.OrderTime) }

// TakenAfter returns a snapshot with the present time of its home's clock, ordered after all others of its
// epoch, whatever their times are.
func (s Snapshot) TakenAfter(others []Snapshot, now time.Time) Snapshot {
	s.Created, s.OrderTime = now.UTC().Round(0), time.Time{}
	for _, o := range others {
		if o.Epoch == s.Epoch && o.At().Compare(s.At()) >= 0 {
			s.OrderTime = o.At().Taken.Add(1)
		}
	}
	return s
}

// At returns the moment up to which a copy is complete.
func (c Copy) At() Moment { return moment(c.Epoch, c.Taken, c.OrderTime) }

// At returns the moment that a dataset continues from.
func (l Loss) At() Moment { return moment(l.Epoch, l.Taken, l.OrderTime) }

// Of reports whether a snapshot belongs to what was lost: its epoch ended with the loss, and it is later than
// what the dataset continued from.
func (l Loss) Of(s Snapshot) bool {
	return s.Epoch <= l.EndedEpoch && s.At().Compare(l.At()) > 0 && !slices.Contains(l.SurvivingSnapshots, s.ID)
}

// Lost reports whether a dataset continued without the content of a snapshot.
func (d Dataset) Lost(s Snapshot) bool {
	return slices.ContainsFunc(d.Losses, func(l Loss) bool { return l.Of(s) })
}
