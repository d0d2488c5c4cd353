package backendtest

import (
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// visitBesideTheHome mounts a dataset as a host does that is not its home, while it is mounted at
// its home: each sees the writes of the other. Another pool of the share is not to be had
// here, so the visitor is its own pool's.
func visitBesideTheHome(f *fixture) {
	sharer, is := f.pool.(backends.Sharer)
	if !is {
		return
	}
	d := f.create()
	home := f.mount(d.ID)
	defer home.unmount()
	a, err := sharer.Visit(f.ctx, d.ID, f.pool.ID(), backends.AttachOptions{})
	if !f.can.ManyHosts {
		f.fails(err, dataset.ErrUnsupported)
		return
	}
	f.ok(err)
	guest := f.mountOf(a)
	f.ok(os.WriteFile(guest.in("guest"), []byte("from the guest"), 0o600))
	f.fileHolds(home.in("guest"), "from the guest")
	f.ok(os.WriteFile(home.in("home"), []byte("from the home"), 0o600))
	f.fileHolds(guest.in("home"), "from the home")
	home.unmount()
	f.fails(f.pool.Delete(f.ctx, d.ID), dataset.ErrInUse)
	guest.unmount()
	for what, missing := range map[string][2]uuid.UUID{"dataset": {uuid.New(), f.pool.ID()},
		"pool": {d.ID, uuid.New()}} {
		if _, err := sharer.Visit(f.ctx, missing[0], missing[1],
			backends.AttachOptions{}); dataset.KindOf(err) != dataset.ErrNotFound {
			f.Errorf("of a %s that there is not: %v", what, err)
		}
	}
}
