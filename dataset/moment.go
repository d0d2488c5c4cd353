package dataset

import (
	"cmp"
	"slices"
	"time"
)

// MaxClockSkew is by how much the clock of another host may be ahead. A record with a later time was made while a clock
// was wrong, so the record counts as old.
const MaxClockSkew = 5 * time.Minute

// Moment is a point in the life of a dataset. Taken is the time of the clock of the home in that epoch. The clocks of
// two homes can differ, so Compare compares the epochs first.
type Moment struct {
	Epoch uint64
	Taken time.Time
}

// Compare returns a negative number if m is before o, a positive one if m is after o, and 0 if they are equal.
func (m Moment) Compare(o Moment) int {
	return cmp.Or(cmp.Compare(m.Epoch, o.Epoch), m.Taken.Compare(o.Taken))
}

// moment returns the moment of a snapshot. If order is not zero, it is used instead of taken.
func moment(epoch uint64, taken, order time.Time) Moment {
	if !order.IsZero() {
		taken = order
	}
	return Moment{epoch, taken}
}

// At returns the moment of a snapshot.
func (s Snapshot) At() Moment { return moment(s.Epoch, s.Created, s.OrderTime) }

// TakenAfter returns the record of a snapshot that is taken now, by the clock of its home. If the clock was set back,
// TakenAfter sets OrderTime, so that the snapshot comes after all others of its epoch.
func (s Snapshot) TakenAfter(others []Snapshot, now time.Time) Snapshot {
	s.Created, s.OrderTime = now.UTC().Round(0), time.Time{}
	for _, o := range others {
		if o.Epoch == s.Epoch && o.At().Compare(s.At()) >= 0 {
			s.OrderTime = o.At().Taken.Add(1)
		}
	}
	return s
}

// At returns the moment of the copy's newest complete snapshot.
func (c Copy) At() Moment { return moment(c.Epoch, c.Taken, c.OrderTime) }

// At returns the moment from which the dataset continues.
func (l Loss) At() Moment { return moment(l.Epoch, l.Taken, l.OrderTime) }

// Includes reports whether a snapshot is a part of the loss. That is so if all of these hold: the epoch of the
// snapshot ended with the loss or earlier, the snapshot is later than the moment from which the dataset continues, and
// it is not one of SurvivingSnapshots.
func (l Loss) Includes(s Snapshot) bool {
	return s.Epoch <= l.EndedEpoch && s.At().Compare(l.At()) > 0 && !slices.Contains(l.SurvivingSnapshots, s.ID)
}

// Lost reports whether a snapshot of a dataset is a part of one of its losses.
func (d Dataset) Lost(s Snapshot) bool {
	return slices.ContainsFunc(d.Losses, func(l Loss) bool { return l.Includes(s) })
}
