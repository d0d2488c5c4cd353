package agent

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// leftBehind says why what is mounted here of a dataset is not what others have of it; nil: it is, or
// that cannot be told. So it is where this host was said to write no more, and did: its home may
// have restored the dataset, and removed what it was, as whoever has that open changes no snapshot.
func (a *Agent) leftBehind(ctx context.Context, d dataset.Dataset) error {
	att, err := a.visit(ctx, d)
	if err != nil {
		return nil
	}
	is, err := os.Stat(att.Mount.Source)
	if err := errors.Join(err, att.Release()); err != nil {
		return nil
	}
	here, err := os.Stat(a.mountPath(d.ID))
	if err == nil && os.SameFile(here, is) || err != nil && !errors.Is(err, unix.ESTALE) {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict, "it was restored since, while this host was said to write no more: what is mounted here is no more what others have, and what is written to it is lost")
}

// guestStatus is what this node says of a dataset that it has mounted beside its home.
func (a *Agent) guestStatus(g guestRecord) dataset.DatasetStatus {
	mounted, err := isMountPoint(a.mountPath(g.ID))
	st := dataset.DatasetStatus{ID: g.ID, Mounted: mounted, Mounts: a.record(g.ID).uses(a.currentGeneration())}
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
func (a *Agent) checkGuests(r *report) {
	for _, id := range a.guests.ids() {
		g, _ := a.guests.get(id)
		if why := a.guests.why(id); why != "" {
			r.add(levelError, "volume "+g.Volume, "stop its containers here", "is mounted here beside its home, and %s", why)
		}
	}
}
