package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
)

const (
	houseFull = ledger.LanesKept // between two full looks: other services change things too
	failAgain = time.Hour        // between two reports of the same failure
)

// house is what the background work remembers from one round to the next, so that a round in which nothing
// changed reads nothing. Only one goroutine uses it.
type house struct {
	rev      uint64    // revision of the feed up to which changes were examined
	full     time.Time // when the next full look is due
	trashDue time.Time // when the next dataset in the trash expires; zero if none does
	forget   time.Time // when old operations are looked for again
	ops      uint64    // how many changes of operations the feed had at the last look
	plans    map[uuid.UUID]duePlan
	short    shortage
	hidden   bool              // the right to write the catalog is missing
	lanes    map[string]uint64 // lanes of services with their indexes, at the last full look

	failed func(what string, err error)
	told   map[string]time.Time // reported failures, by text
	now    time.Time
	wall   time.Time     // time of the last round
	steady time.Duration // the same by the steady clock
	over   time.Duration // by how much the clock has advanced further since, without a report
}

func (s *Service) newHouse() *house {
	return &house{
		plans:  map[uuid.UUID]duePlan{},
		short:  shortage{of: map[uuid.UUID]bool{}},
		failed: s.Failed,
		told:   map[string]time.Time{},
	}
}

// fail reports a failure, unless the same one was reported lately.
func (h *house) fail(what string, err error) {
	text := what + ": " + err.Error()
	if at, ok := h.told[text]; ok && h.now.Sub(at) < failAgain {
		return
	}
	if len(h.told) >= 1000 {
		clear(h.told)
	}
	h.told[text] = h.now
	h.failed(what, err)
}

// keepHouse does the background work until ctx ends: it condemns expired trash, removes old operations, requests
// snapshots that are due, and removes those that retention does not keep. It hears the agents first: one may know
// that the store was restored from a backup.
func (s *Service) keepHouse(ctx context.Context) {
	h, told := s.newHouse(), false
	// from here on the time of the background work counts; a failure is retried when the count is first needed
	_, _ = s.hasRun(record.NewTx(ctx, s.store))
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Clock.After(s.Limits.House):
		}
		mine, err := s.Members.TakeHouse(ctx)
		if err != nil && ctx.Err() == nil && !told {
			s.Failed("take over the background work", err)
		}
		told = err != nil
		switch {
		case !mine:
			h = nil // the replica that does the work meanwhile changes what is known here
			continue
		case h == nil:
			h = s.newHouse()
		}
		s.round(ledger.AsHousekeeper(ctx), h, s.Clock.Now())
	}
}

// round does what is due. A failure does not stop the rest, and is retried.
func (s *Service) round(ctx context.Context, h *house, now time.Time) {
	if now.Before(h.now) { // the clock was set back: what was due by it is not
		clear(h.plans)
		clear(h.told)
		h.full, h.forget = time.Time{}, time.Time{}
	}
	h.now = now
	changes := s.feed.Since(uuid.Nil, h.rev)
	everything := changes.Full || !now.Before(h.full)
	if err := s.markRan(ctx, changes.Any || everything); err != nil && ctx.Err() == nil {
		h.fail("count the time that drover runs", err)
	}
	if over := s.passedOver(h); over > 0 {
		h.full = time.Time{}
		h.over += over
		everything = true
	}
	if changes.Any || everything || (!h.trashDue.IsZero() && !now.Before(h.trashDue)) {
		s.expireTrash(ctx, h)
	}
	short, err := s.due(ctx, &h.short)
	if err != nil && ctx.Err() == nil {
		h.fail("look for nodes that can take a replica", err)
	}
	if err := s.lookAtChanges(ctx, h, slices.Concat(changes.Datasets, short), everything); err == nil {
		h.rev = changes.Rev
		if everything {
			h.full = now.Add(houseFull)
		}
	} else if h.short.nodes = ""; ctx.Err() == nil {
		h.fail("look at what changed", err)
	}
	s.takeDue(ctx, h, now)
	if s.Shared {
		s.lookAtMembers(ctx, h, everything)
	}
	if told := s.feed.Operations(); !now.Before(h.forget) || told-h.ops >= forgetAfter {
		if err := errors.Join(s.forgetOperations(ctx), s.copyKeeper.Expire(ctx)); err == nil {
			h.forget, h.ops = now.Add(forgetEvery), told
		} else if ctx.Err() == nil {
			h.fail("forget old operations and copies", err)
		}
	}
}

// lookAtChanges examines the datasets that changed, or all. After an error they must be examined again; a problem
// with one dataset is no such error.
func (s *Service) lookAtChanges(ctx context.Context, h *house, changed []uuid.UUID, everything bool) error {
	if !everything {
		for some := range slices.Chunk(changed, store.MaxOps) {
			if err := s.lookAtSome(ctx, h, some); err != nil {
				return err
			}
		}
		return nil
	}
	t := record.NewTx(ctx, s.store)
	live := map[uuid.UUID]bool{}
	for after := ""; ; {
		entries, err := t.List(record.DatasetsPrefix, after, view.PageMost)
		if err != nil {
			return err
		}
		for _, e := range entries {
			after = e.Key
			var d dataset.Dataset
			err := record.Decode(e.Key, e.Value, &d)
			if err := s.lookAtOne(ctx, h, e.Key, d, e.Index, err); err != nil {
				return err
			}
			live[d.ID] = true
		}
		if len(entries) < view.PageMost {
			break
		}
	}
	for id := range h.plans {
		if !live[id] {
			delete(h.plans, id)
		}
	}
	return nil
}

// lookAtSome examines datasets that changed, as many as are read at once.
func (s *Service) lookAtSome(ctx context.Context, h *house, changed []uuid.UUID) error {
	t, keys := record.NewTx(ctx, s.store), make([]string, len(changed))
	for i, id := range changed {
		keys[i] = record.DatasetKey(id)
	}
	if err := t.Foresee(keys); err != nil {
		return err
	}
	for _, id := range changed {
		var d dataset.Dataset
		there, err := t.Get(record.DatasetKey(id), &d)
		if err == nil && !there {
			delete(h.plans, id)
			h.short.note(id, nil)
			continue
		}
		if err := s.lookAtOne(ctx, h, id.String(), d, t.Index(record.DatasetKey(id)), err); err != nil {
			return err
		}
	}
	return nil
}

// lookAtOne returns only the errors that concern all datasets.
func (s *Service) lookAtOne(ctx context.Context, h *house, what string, d dataset.Dataset, index uint64,
	err error) error {
	if err == nil {
		short := s.copyKeeper.Maintain(ctx, d)
		h.short.note(d.ID, short)
		err = errors.Join(s.look(ctx, h, d, index), short, s.copyKeeper.ForgetLost(ctx, d))
	}
	if err != nil && (ctx.Err() != nil || dataset.KindOf(err) == dataset.ErrUnavailable) {
		return err
	}
	if err != nil {
		h.fail("schedule, retention, replicas and losses of "+what, err)
	}
	return nil
}

// expireTrash condemns datasets whose time in the trash has passed.
func (s *Service) expireTrash(ctx context.Context, h *house) {
	entries, err := record.NewTx(ctx, s.store).List(record.TrashPrefix, "", 0)
	if err != nil {
		if ctx.Err() == nil {
			h.fail("expire trash", err)
		}
		return
	}
	h.trashDue = time.Time{}
	for _, e := range entries {
		until, err := s.expireOne(ctx, e.Key, e.Value, h.now)
		if err != nil && ctx.Err() == nil {
			h.fail("expire "+e.Key, err)
			until = h.now // the next round tries again
		}
		if !until.IsZero() && (h.trashDue.IsZero() || until.Before(h.trashDue)) {
			h.trashDue = until
		}
	}
	if h.over > 0 && !h.trashDue.IsZero() {
		s.tellHeld(h.over)
	}
	h.over = 0
}

// expireOne condemns a dataset if its time in the trash has passed. Otherwise it returns when that will be by the
// clock; zero for never. A dataset stays if its home does not trust the store.
func (s *Service) expireOne(ctx context.Context, key string, value []byte, now time.Time) (until time.Time, err error) {
	var tr record.TrashEntry
	if err := record.Decode(key, value, &tr); err != nil || tr.Until.IsZero() {
		return until, err
	}
	if left := tr.Left(s.counted()); left > 0 {
		return now.Add(left), nil
	}
	id, err := record.IDIn(key, record.TrashPrefix)
	if err != nil {
		return until, err
	}
	_, err = s.ledger.Update(ctx, func(t *record.Tx) error {
		until = time.Time{}
		ran, err := s.hasRun(t)
		if err != nil {
			return err
		}
		if left := tr.Left(ran); left > 0 {
			until = now.Add(left)
			return nil
		}
		var d dataset.Dataset
		there, err := t.Get(record.DatasetKey(id), &d)
		if err != nil || !there || d.State != dataset.StateTrashed || !tr.Of(d) {
			return err // brought back, or brought back and deleted again
		}
		err = t.Halted()
		if dataset.KindOf(err) == dataset.ErrConflict || err == nil && !s.reported.Trusts(d.Home) {
			until = now
			return nil
		}
		if err != nil {
			return err
		}
		if err := noSupersededCopy(t, d); err != nil {
			return err
		}
		return condemn(t, &d, "trash.expire", "destroyed")
	})
	return until, err
}

// lookAtMembers looks which nodes and services no longer exist.
func (s *Service) lookAtMembers(ctx context.Context, h *house, everything bool) {
	if err := s.Members.LookForAway(ctx); err != nil && ctx.Err() == nil {
		h.fail("look which nodes are away", err)
	}
	if err := s.Members.LookForMassLoss(ctx); err != nil && ctx.Err() == nil {
		h.fail("look whether too many nodes are away", err)
	}
	if err := s.endLostMoves(ctx); err != nil && ctx.Err() == nil {
		h.fail("give back what moves to lost nodes hold", err)
	}
	if err := s.Members.ShowMembers(ctx, &h.hidden, everything); err != nil && ctx.Err() == nil {
		h.fail("show replicas and agents in the catalog", err)
	}
	if !everything {
		return
	}
	if err := s.forgetServices(ctx, h); err != nil && ctx.Err() == nil {
		h.fail("forget services that are no more", err)
	}
}

// forgetServices removes the lanes of services that no longer exist, once others have had the time between two
// full looks to read them: see hearing.
func (s *Service) forgetServices(ctx context.Context, h *house) error {
	lanes, err := s.store.List(ctx, record.RevPrefix, "", 0)
	if err != nil {
		return record.ReadError(ctx, err)
	}
	services, err := record.ListAll[membership.Replica](record.NewTx(ctx, s.store), record.LiveServicesPrefix)
	if err != nil {
		return err
	}
	live, before := map[string]bool{}, h.lanes
	for _, r := range services {
		live[r.ID.String()] = true
	}
	h.lanes = map[string]uint64{}
	var over []string
	for _, e := range lanes {
		h.lanes[e.Key] = e.Index
		of, _, _ := strings.Cut(strings.TrimPrefix(e.Key, record.RevPrefix), "/")
		if e.Key != record.DroppedKey && !live[of] && before[e.Key] == e.Index && len(over) < dropAtOnce {
			over = append(over, e.Key)
		}
	}
	if len(over) == 0 {
		return nil
	}
	_, err = s.ledger.Update(ctx, func(t *record.Tx) error { return dropLanes(t, over) })
	return err
}

// dropAtOnce bounds the lanes that one transaction removes, because each is checked too.
const dropAtOnce = 50

// dropLanes removes lanes that nobody writes any more, and keeps their counts.
func dropLanes(t *record.Tx, keys []string) error {
	var dropped notify.Notices
	if _, err := t.Get(record.DroppedKey, &dropped); err != nil {
		return err
	}
	for _, key := range keys {
		var last notify.Notices
		if there, err := t.Get(key, &last); err != nil {
			return err
		} else if there {
			dropped.Count += last.Count
			t.Delete(key)
		}
	}
	return t.Put(record.DroppedKey, dropped)
}
