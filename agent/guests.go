package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/locks"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// A dataset of access many whose home is another node is mounted here as a guest:
//
//	control has the stay on record → it is on disk here → mount(2) → {ID} on disk → reply
//	ID off disk → umount(2) → control ends the stay → it is off disk here
//
// So control never knows of less than is mounted, and what a crash leaves of a stay without a
// mount is ended as soon as either side looks: each stay has an ID of its own, so that what is
// said late is not taken for the next one. A mount that control has no stay for, as after a
// person's word that this host is gone, is told anew as one that is held.

// guestRecord is a stay of this node.
type guestRecord struct {
	api.Indexed
	Stay uuid.UUID `json:"stay"`
}

// guests are the stays of this node, as on disk, and what its own datasets are needed alone for.
type guests struct {
	mu      sync.Mutex
	of      map[uuid.UUID]guestRecord
	refused map[uuid.UUID]string // mounted here, and why nobody else is to have it here
	alone   map[uuid.UUID]aloneStay
	asking  locks.Set // each while control is asked for a dataset alone
}

func (g *guests) get(id uuid.UUID) (guestRecord, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, is := g.of[id]
	return r, is
}

// named returns the dataset behind a name. One that control has no stay for is behind none, as
// another may have its name by now.
func (g *guests) named(name string) (dataset.Dataset, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.of {
		if _, refused := g.refused[r.ID]; r.Volume == name && r.State == dataset.StateReady && !refused {
			return r.Dataset, true
		}
	}
	return dataset.Dataset{}, false
}

func (g *guests) ids() []uuid.UUID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.of))
}

// why is why nobody else is to have what is mounted here; "": they may.
func (g *guests) why(id uuid.UUID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused[id]
}

// open fails where a dataset that is mounted here may have no further users.
func (g *guests) open(d dataset.Dataset) error {
	if why := g.why(d.ID); why != "" {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s is mounted here, and %s (stop its containers here first)", d.Volume, why)
	}
	return nil
}

// refuses keeps why nobody else is to have what is mounted here; nil: it is well, or nothing is.
func (g *guests) refuses(id uuid.UUID, why error) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, was := g.refused[id]
	if why == nil {
		delete(g.refused, id)
		return false
	}
	g.refused[id] = dataset.OneLine(why)
	return !was
}

func (a *Agent) loadGuests(ctx context.Context) error {
	a.guests.of, a.guests.refused, a.guests.alone = map[uuid.UUID]guestRecord{}, map[uuid.UUID]string{},
		map[uuid.UUID]aloneStay{}
	return a.DB.Each(ctx, "guests/", func(_ string, v []byte) error {
		var r guestRecord
		err := json.Unmarshal(v, &r)
		if err == nil {
			a.guests.of[r.ID] = r
		}
		return err
	})
}

// setGuest puts a stay on disk, and then takes it in.
func (a *Agent) setGuest(ctx context.Context, r guestRecord) error {
	if err := a.DB.Put(ctx, map[string]any{"guests/" + r.ID.String(): r}); err != nil {
		return err
	}
	a.guests.mu.Lock()
	defer a.guests.mu.Unlock()
	a.guests.of[r.ID] = r
	return nil
}

// dropGuest forgets one.
func (a *Agent) dropGuest(ctx context.Context, id uuid.UUID) error {
	if _, guest := a.guests.get(id); !guest {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{"guests/" + id.String(): nil}); err != nil {
		return err
	}
	a.guests.mu.Lock()
	defer a.guests.mu.Unlock()
	delete(a.guests.of, id)
	return nil
}

// visits reports whether a dataset is mounted here as a guest, rather than brought here.
func (a *Agent) visits(d dataset.Dataset) bool {
	if now, home := a.Cache.Dataset(d.ID); home {
		d = now
	}
	return d.Home != a.NodeID && d.Profile.Access == dataset.AccessMany
}

// knownHere returns what this node knows of a dataset: as its home, with a copy, or as a guest.
func (a *Agent) knownHere(id uuid.UUID) (dataset.Dataset, bool) {
	if d, known := a.Cache.DatasetOrCopy(id); known {
		return d, true
	}
	g, guest := a.guests.get(id)
	return g.Dataset, guest
}

// mountGuest mounts a dataset of another home; its lock is held, and it is not mounted. What
// passes (a move to another node of the share, a snapshot at home) it waits for as long as for
// a lease.
func (a *Agent) mountGuest(ctx context.Context, d dataset.Dataset, path string) error {
	for until := a.Clock.Steady() + a.Limits.Lease; ; {
		err := a.mountStay(ctx, d, path)
		if err == nil {
			return nil
		}
		if _, guest := a.guests.get(d.ID); guest {
			a.guestSoon(d.ID, uuid.Nil)
		}
		passes := errors.Is(err, dataset.ErrPending) || errors.Is(err, errMoved)
		if !passes || a.Clock.Steady() >= until {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
}

// errMoved says that a dataset is not where control had it on record a moment ago.
var errMoved = errors.New("it was moved to another pool of its share just now (ask again)")

// mountStay does so once.
func (a *Agent) mountStay(ctx context.Context, d dataset.Dataset, path string) error {
	r := guestRecord{Stay: uuid.New()}
	var err error
	if r.Indexed, err = a.Control.Guest(ctx, a.NodeID,
		api.Stay{Incarnation: a.Incarnation, Dataset: d.ID, ID: r.Stay}); err != nil {
		return err
	}
	steps.At("guest.recorded")
	// Its record is on disk here before the mount, so that a start without control knows what
	// is mounted.
	if err := a.setGuest(ctx, r); err != nil {
		return errors.Join(err, a.endStay(ctx, d.ID, r.Stay))
	}
	steps.At("guest.kept")
	if r.Home == a.NodeID {
		return dataset.Errorf(dataset.ErrConflict, "volume %s came here meanwhile: ask again", d.Volume)
	}
	if !a.nodes.knows(r.Home) { // who looks at it is told the name
		a.Jobs.Start("nodes", func(ctx context.Context, _ *jobs.Job) error { return a.nodes.look(ctx) })
	}
	if err := a.mountpoint(path); err != nil {
		return err
	}
	a.idle(d.ID)
	steps.At("mount.begin")
	att, err := a.visit(ctx, r.Dataset)
	if err != nil {
		return err
	}
	if err := mountAttached(att, path); err != nil {
		return err
	}
	a.guests.refuses(d.ID, nil)
	a.LogOf(r.Dataset).WithField("path", path).Info("mounted, beside its home")
	return nil
}

// visit attaches a dataset of another home, by the pool that this node has on the same share.
func (a *Agent) visit(ctx context.Context, d dataset.Dataset) (att backends.Attachment, err error) {
	err = errMoved
	for _, p := range a.pools.All() {
		if p.Share == uuid.Nil {
			continue
		}
		pool, perr := a.pools.Online(ctx, p.ID)
		if perr != nil {
			err = perr
			continue
		}
		sharer, can := pool.(backends.Sharer)
		if !can {
			continue
		}
		att, verr := sharer.Visit(ctx, d.ID, d.Pool,
			backends.AttachOptions{ReadOnly: d.ReadOnly, Mount: d.Profile.Filesystem.Mount})
		if !errors.Is(verr, dataset.ErrNotFound) {
			return att, verr
		}
	}
	return att, err
}

// endStay has control end a stay.
func (a *Agent) endStay(ctx context.Context, id, stay uuid.UUID) error {
	_, err := a.Control.Guest(ctx, a.NodeID, api.Stay{Incarnation: a.Incarnation, Dataset: id, ID: stay, Over: true})
	return err
}

// guestSoon has control and what is mounted here agree on a dataset, as a job of its own. told
// is a stay that control has on record.
func (a *Agent) guestSoon(id, told uuid.UUID) {
	a.Jobs.StartAgain("guest/"+id.String()+"/"+told.String(), func(ctx context.Context, _ *jobs.Job) error {
		if err := a.settleGuest(ctx, id, told); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset",
				id).Warn("control was not told of a mount beside the home, or of its end; it is tried again")
		}
		return nil
	})
}

// guestRounds tries again what control could not be told.
func (a *Agent) guestRounds() {
	for _, id := range a.guests.ids() {
		if mounted, err := host.IsMountPoint(a.MountPath(id)); err == nil && !mounted {
			a.guestSoon(id, uuid.Nil)
		}
	}
}

// settleGuest ends a stay without a mount, and tells of a mount without one. Again: nothing.
func (a *Agent) settleGuest(ctx context.Context, id, told uuid.UUID) error {
	g, known, stays, err := a.endedStay(ctx, id, told)
	if err != nil || !stays {
		return err
	}
	if !known {
		g.Stay = uuid.New()
	}
	// Without the lock: who mounts or unmounts here what is mounted waits for no control.
	now, asked := a.Control.Guest(ctx, a.NodeID, api.Stay{
		Incarnation: a.Incarnation,
		Dataset:     id,
		ID:          g.Stay,
		Held:        true,
	})
	unlock, err := a.Locks.Lock(ctx, id, "check of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	is, still := a.guests.get(id)
	mounted, err := host.IsMountPoint(a.MountPath(id))
	switch {
	case err != nil:
		return err
	case !mounted && len(a.record(id).IDs) == 0, still != known, known && is.Stay != g.Stay:
		return nil // it ended meanwhile: the next sync says so if control heard of that before this
	}
	return a.holdStay(ctx, id, guestRecord{is.Indexed, g.Stay}, known, now, asked)
}

// endedStay ends a stay without a mount; stays: there is one.
func (a *Agent) endedStay(ctx context.Context, id, told uuid.UUID) (g guestRecord, known, stays bool, err error) {
	unlock, err := a.Locks.Lock(ctx, id, "check of dataset "+id.String())
	if err != nil {
		return g, false, false, err
	}
	defer unlock()
	if a.Trust.Err() != nil {
		return g, false, false, nil
	}
	if _, home := a.Cache.Dataset(id); home {
		return g, false, false, a.dropGuest(ctx, id) // which needs none
	}
	g, known = a.guests.get(id)
	mounted, err := host.IsMountPoint(a.MountPath(id))
	if err != nil || mounted || len(a.record(id).IDs) > 0 {
		return g, known, err == nil, err
	}
	a.guests.refuses(id, nil)
	for _, stay := range []uuid.UUID{told, g.Stay} {
		if stay != uuid.Nil {
			if err := a.endStay(ctx, id, stay); err != nil {
				return g, known, false, err
			}
		}
	}
	steps.At("guest.ended")
	return g, known, false, a.dropGuest(ctx, id)
}

// holdStay takes in what control says of what is mounted here, whatever it decided meanwhile.
func (a *Agent) holdStay(ctx context.Context, id uuid.UUID, g guestRecord, known bool, now api.Indexed,
	err error) error {
	switch {
	case errors.Is(err, dataset.ErrNotFound), errors.Is(err, dataset.ErrUnsupported):
		if err = fmt.Errorf("control has it not so on record: %w", err); a.guests.refuses(id, err) && known {
			a.LogOf(g.Dataset).WithError(err).Error("it is mounted here beside its home: stop its containers here")
		}
		return nil
	case err != nil:
		return err
	}
	why := a.leftBehind(ctx, now.Dataset)
	if a.guests.refuses(id, why) {
		a.LogOf(now.Dataset).WithError(why).Error("it is mounted here beside its home: stop its containers here")
		a.News.Changed(id)
	}
	if known && now.Index == g.Index {
		return nil
	}
	if !known { // the agent's own state was lost, with who uses it
		err = a.assumed(ctx, now.Dataset)
	}
	if err != nil {
		return err
	}
	return a.setGuest(ctx, guestRecord{now, g.Stay})
}

// takeGuests takes in what control has on record of this node's stays.
func (a *Agent) takeGuests(ctx context.Context, s api.Sync, strange bool) error {
	if strange {
		return nil
	}
	named := map[uuid.UUID]bool{}
	for _, d := range s.Guests {
		named[d.ID] = true
		on, _ := d.Stay(a.NodeID)
		g, known := a.guests.get(d.ID)
		switch {
		case !known || g.Stay != on.ID:
			a.guestSoon(d.ID, on.ID)
		case d.Index > g.Index:
			if err := a.setGuest(ctx, guestRecord{d, g.Stay}); err != nil {
				return err
			}
			a.guestSoon(d.ID, uuid.Nil)
		case s.Full: // whether it is still what others have is not on disk
			a.guestSoon(d.ID, uuid.Nil)
		}
	}
	for _, id := range a.guests.ids() {
		if !named[id] && (s.Full || slices.Contains(s.Removed, id) ||
			slices.ContainsFunc(s.Datasets, func(d api.Indexed) bool { return d.ID == id })) {
			a.guestSoon(id, uuid.Nil)
		}
	}
	for _, d := range s.Datasets {
		if on, stays := d.Stay(a.NodeID); stays && d.Home == a.NodeID && !a.isAlone(d.ID, on.ID) {
			a.endAlone(d.ID, on.ID) // of an agent that died over it
		}
	}
	return nil
}

// leaves ends the stay with a dataset that was unmounted. What fails is tried again later.
func (a *Agent) leaves(ctx context.Context, id uuid.UUID) {
	if _, guest := a.guests.get(id); !guest {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.settleGuest(ctx, id, uuid.Nil); err != nil {
		a.guestSoon(id, uuid.Nil)
	}
}
