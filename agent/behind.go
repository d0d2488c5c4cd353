package agent

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// leftBehind returns why a dataset that is mounted here differs from what other nodes have. It returns nil if it
// does not differ, or if that is not known. It differs if an operator confirmed that this host is fenced and it
// was not: its home may have restored the dataset and removed its former content, because a process that has the
// dataset open changes no snapshot.
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
	// only by its number: the share may have been mounted again with another device
	if err == nil && here.Ino == is.Ino || err != nil && !errors.Is(err, unix.ESTALE) {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"it was restored since, while this host was said to write no more: what is mounted here is no more "+
			"what others have, and what is written to it is lost")
}

// guestStatus is this node's report of a dataset that it has mounted as a guest.
func (a *Agent) guestStatus(g guestRecord) dataset.DatasetStatus {
	mounted, err := host.IsMountPoint(a.MountPath(g.ID))
	st := dataset.DatasetStatus{ID: g.ID, Mounted: mounted, Mounts: a.usesOf(a.uses.Get(g.ID))}
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

// checkGuests adds findings on what this node has mounted as a guest.
func (a *Agent) checkGuests(r *diagnosis) {
	for _, id := range a.guests.ids() {
		g, _ := a.guests.get(id)
		if why := a.guests.why(id); why != "" {
			r.Add(findings.Error, "volume "+g.Volume, "stop its containers here",
				"is mounted here beside its home, and %s", why)
		}
	}
}
