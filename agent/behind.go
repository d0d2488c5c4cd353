package agent

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// leftBehind says why what is mounted here of a dataset is not what others have of it; nil: it is, or
// that cannot be told. So it is where this host was said to write no more, and did: its home may
// have restored the dataset, and removed what it was, as whoever has that open changes no snapshot.
func (a *Agent) leftBehind(ctx context.Context, d dataset.Dataset) error {
	if mounted, err := host.IsMountPoint(a.MountPath(d.ID)); err != nil || !mounted {
		return nil
	}
	att, err := a.visit(ctx, d)
	if err != nil {
		return nil
	}
	var is, here unix.Stat_t
	err = unix.Stat(att.Mount.Source, &is)
	if err := errors.Join(err, att.Release()); err != nil {
		return nil
	}
	err = unix.Stat(a.MountPath(d.ID), &here)
	// By its number alone: the share may be mounted anew since, with a device of its own.
	if err == nil && here.Ino == is.Ino || err != nil && !errors.Is(err, unix.ESTALE) {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"it was restored since, while this host was said to write no more: what is mounted here is no more "+
			"what others have, and what is written to it is lost")
}

// guestStatus is what this node says of a dataset that it has mounted beside its home.
func (a *Agent) guestStatus(g guestRecord) dataset.DatasetStatus {
	mounted, err := host.IsMountPoint(a.MountPath(g.ID))
	st := dataset.DatasetStatus{ID: g.ID, Mounted: mounted, Mounts: a.usesOf(a.record(g.ID))}
	if err != nil {
		st.Problem = dataset.Cut(err.Error())
	} else if why := a.guests.why(g.ID); why != "" {
		st.Problem = dataset.Cut(why)
	}
	if len(st.Mounts) == 0 {
		st.Mounts = nil
	}
	return st
}

// checkGuests says what this node has mounted beside other homes.
func (a *Agent) checkGuests(r *diagnosis) {
	for _, id := range a.guests.ids() {
		g, _ := a.guests.get(id)
		if why := a.guests.why(id); why != "" {
			r.Add(findings.Error, "volume "+g.Volume, "stop its containers here",
				"is mounted here beside its home, and %s", why)
		}
	}
}
