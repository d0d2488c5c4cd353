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
//	control has the stay recorded → it is on disk here → mount(2) → {ID} on disk → reply
//	ID off disk → umount(2) → control ends the stay → it is off disk here
//
// So control never knows of less than is mounted. A stay without a mount, as after a crash, is ended as soon as either
// side looks: each stay has an ID, so that a late report does not apply to the next one. A mount that control has no
// stay for, as after a person confirmed that this host is fenced, is reported again as one that is held.

// guestRecord is a stay of this node.
type guestRecord struct {
	api.Indexed
	Stay uuid.UUID `json:"stay"`
}

// guests are the stays of this node, as on disk, and the datasets of this node that are needed alone.
type guests struct {
	mu      sync.Mutex
	of      map[uuid.UUID]guestRecord
	refused map[uuid.UUID]string // mounted here, and why nobody else may mount them here
	alone   map[uuid.UUID]aloneStay
	asking  locks.Set // held while control is asked to reserve a dataset
}

func (g *guests) get(id uuid.UUID) (guestRecord, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, is := g.of[id]
	return r, is
}

// named returns the dataset with a name. A dataset that control has no stay for has none, because another may
// have its name by now.
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

// why returns why nobody else may use what is mounted here; "" if they may.
func (g *guests) why(id uuid.UUID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused[id]
}

// open fails if a dataset that is mounted here must not get further users.
func (g *guests) open(d dataset.Dataset) error {
	if why := g.why(d.ID); why != "" {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s is mounted here, and %s (stop its containers here first)", d.Volume, why)
	}
	return nil
}

// refuses records why nobody else may use what is mounted here; nil: they may, or nothing is mounted.
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

// setGuest writes a stay to disk, and then applies it.
func (a *Agent) setGuest(ctx context.Context, r guestRecord) error {
	if err := a.DB.Put(ctx, map[string]any{"guests/" + r.ID.String(): r}); err != nil {
		return err
	}
	a.guests.mu.Lock()
	defer a.guests.mu.Unlock()
	a.guests.of[r.ID] = r
	return nil
}

// dropGuest removes a stay.
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

// visits reports whether a dataset is mounted here as a guest, and not as its home.
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

// mountGuest mounts a dataset of another home. The caller holds its lock, and it is not mounted. It waits as long
// as for a lease for what passes: a move to another node of the share, or a snapshot at the home.
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

// errMoved says that a dataset is no longer where control recorded it a moment ago.
var errMoved = errors.New("it was moved to another pool of its share just now (ask again)")

// mountStay is one attempt of mountGuest.
func (a *Agent) mountStay(ctx context.Context, d dataset.Dataset, path string) error {
	r := guestRecord{Stay: uuid.New()}
	var err error
	if r.Indexed, err = a.Control.Guest(ctx, a.NodeID,
		api.Stay{Incarnation: a.Incarnation, Dataset: d.ID, ID: r.Stay}); err != nil {
		return err
	}
	steps.At("guest.recorded")
	// The record is on disk before the mount, so that a start without control knows what is mounted.
	if err := a.setGuest(ctx, r); err != nil {
		return errors.Join(err, a.endStay(ctx, d.ID, r.Stay))
	}
	steps.At("guest.kept")
	if r.Home == a.NodeID {
		return dataset.Errorf(dataset.ErrConflict, "volume %s came here meanwhile: ask again", d.Volume)
	}
	if !a.nodes.Knows(r.Home) { // findings name the home
		a.Jobs.Start("nodes", func(ctx context.Context, _ *jobs.Job) error { return a.nodes.Refresh(ctx) })
	}
	if err := a.mountpoint(path); err != nil {
		return err
	}
	a.uses.MarkIdle(d.ID)
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

// visit attaches a dataset of another home, through this node's pool on the same share.
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

// guestSoon makes control's record and the mount of a dataset agree, as a job. told is a stay that control has
// recorded.
func (a *Agent) guestSoon(id, told uuid.UUID) {
	a.Jobs.StartAgain("guest/"+id.String()+"/"+told.String(), func(ctx context.Context, _ *jobs.Job) error {
		if err := a.settleGuest(ctx, id, told); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset",
				id).Warn("control was not told of a mount beside the home, or of its end; it is tried again")
		}
		return nil
	})
}

// guestRounds retries reports that control did not get.
func (a *Agent) guestRounds() {
	for _, id := range a.guests.ids() {
		if mounted, err := host.IsMountPoint(a.MountPath(id)); err == nil && !mounted {
			a.guestSoon(id, uuid.Nil)
		}
	}
}

// settleGuest ends a stay without a mount, and reports a mount without a stay. Idempotent.
func (a *Agent) settleGuest(ctx context.Context, id, told uuid.UUID) error {
	g, known, stays, err := a.endedStay(ctx, id, told)
	if err != nil || !stays {
		return err
	}
	if !known {
		g.Stay = uuid.New()
	}
	// without the lock, so that mounts and unmounts here do not wait for control
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
	case !mounted && len(a.uses.Get(id).IDs) == 0, still != known, known && is.Stay != g.Stay:
		return nil // it ended meanwhile: the next sync says so if control learned of that before this
	}
	return a.holdStay(ctx, id, guestRecord{is.Indexed, g.Stay}, known, now, asked)
}

// endedStay ends a stay without a mount. stays: there is a mount.
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
		return g, false, false, a.dropGuest(ctx, id) // it needs none
	}
	g, known = a.guests.get(id)
	mounted, err := host.IsMountPoint(a.MountPath(id))
	if err != nil || mounted || len(a.uses.Get(id).IDs) > 0 {
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

// holdStay applies control's answer about what is mounted here, whatever control decided meanwhile.
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
	if !known { // the agent's database was lost, with the record of who uses it
		err = a.assumed(ctx, now.Dataset)
	}
	if err != nil {
		return err
	}
	return a.setGuest(ctx, guestRecord{now, g.Stay})
}

// takeGuests applies the stays that control has recorded for this node.
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
			a.endAlone(d.ID, on.ID) // of an agent that ended meanwhile
		}
	}
	return nil
}

// leaves ends the stay with a dataset that was unmounted. A failure is retried later.
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
