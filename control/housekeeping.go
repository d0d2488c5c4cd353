package control

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

const (
	houseEvery    = 20 * time.Second
	operationKept = 24 * time.Hour
)

// keepHouse does the background work until ctx ends: expired trash is condemned,
// old operations are forgotten, snapshots that are due are asked for and those
// that retention does not keep are removed.
func (s *Service) keepHouse(ctx context.Context) {
	defer close(s.done)
	sched := newScheduler()
	for {
		now := s.Clock.Now()
		for what, work := range map[string]func(context.Context, time.Time) error{
			"expire trash": s.expireTrash, "forget operations": s.forgetOperations,
			"scheduled snapshots": func(ctx context.Context, now time.Time) error { return s.schedule(ctx, sched, now) },
		} {
			if err := work(ctx, now); err != nil && ctx.Err() == nil {
				s.Failed(what, err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.Clock.After(houseEvery):
		}
	}
}

// expireTrash condemns what has been in the trash for its time.
func (s *Service) expireTrash(ctx context.Context, now time.Time) error {
	entries, err := s.store.List(ctx, "trash/", "", 0)
	if err != nil {
		return unavailable(err)
	}
	for _, e := range entries {
		var tr dataset.Trash
		if err := decode(e.Key, e.Value, &tr); err != nil {
			return err
		}
		if tr.Until.IsZero() || tr.Until.After(now) {
			continue
		}
		id, err := uuid.Parse(strings.TrimPrefix(e.Key, "trash/"))
		if err != nil {
			return err
		}
		_, err = s.update(ctx, func(t *tx) error {
			d, err := t.dataset(id)
			if err != nil || d.State != dataset.StateTrashed || d.Trash.Until.After(now) {
				return err
			}
			return s.condemn(t, d, "trash.expire")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) forgetOperations(ctx context.Context, now time.Time) error {
	entries, err := s.store.List(ctx, "operations/", "", 0)
	if err != nil {
		return unavailable(err)
	}
	for _, e := range entries {
		var op dataset.Operation
		if err := decode(e.Key, e.Value, &op); err != nil {
			return err
		}
		if !op.State.Final() || now.Sub(op.Ended) < operationKept {
			continue
		}
		if _, err := s.update(ctx, func(t *tx) error { t.del(e.Key); return nil }); err != nil {
			return err
		}
	}
	return nil
}
