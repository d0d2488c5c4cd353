package control

import (
	"context"
	"errors"

	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// tries is how often a decision is repeated because what it read has changed. In each round some other
// transaction was committed, so this is no live-lock.
const tries = 64

// update makes one decision and commits it. It repeats the decision while what it depends on changes. It returns
// the index of the transaction; 0 if nothing was written.
func (s *Service) update(ctx context.Context, decide func(*record.Tx) error) (index uint64, err error) {
	for n := range tries {
		if index, err = s.try(ctx, n == 0, decide); !errors.Is(err, record.ErrChanged) {
			break
		}
	}
	return index, err
}

func (s *Service) try(ctx context.Context, first bool, decide func(*record.Tx) error) (uint64, error) {
	t := record.NewTx(ctx, s.store)
	t.FirstTry = first
	err := s.keepsHouse(t)
	if err == nil {
		err = decide(t)
	}
	if err != nil || len(t.Writes()) == 0 {
		return 0, t.Settled(err)
	}
	return s.commit(t)
}

// commit commits the decision and notifies those who wait; in the same transaction it notifies those who follow
// another service.
func (s *Service) commit(t *record.Tx) (uint64, error) {
	told, l := s.noticeOf(t), (*lane)(nil)
	if s.out != nil && !t.Silent && (!told.Empty() || t.RaisesClock()) {
		var w store.Write
		var err error
		if l, w, err = s.out.take(t.Context(), told); err != nil {
			return 0, err
		}
		t.Write(w)
		t.Expect(store.Entry{Key: l.key, Index: l.index})
	}
	_, reads := s.highest.get()
	index, err := t.Commit()
	refused := errors.Is(err, store.ErrConflict)
	if l != nil {
		known := err == nil || errors.Is(err, store.ErrTooLarge)
		if refused {
			var lerr error
			if known, lerr = s.laneIsOurs(t.Context(), l); lerr != nil {
				err, refused = lerr, false
			}
		}
		s.out.done(l, index, known)
		if err == nil {
			s.highest.made(reads)
		}
	}
	s.recalled.drop(t.Writes())
	switch {
	case err == nil:
		s.publish(told)
		return index, nil
	case refused:
		return 0, record.ErrBusy
	}
	// It may have been committed: wake those who wait, so that they look for themselves.
	told.Answered = false
	s.feed.Publish(told)
	return 0, record.CommitError(t.Context(), err)
}

// noticeOf returns the notice of a transaction, with the present time in its events.
func (s *Service) noticeOf(t *record.Tx) notify.Notice {
	now := s.Clock.Now()
	for i := range t.Notice.Events {
		t.Notice.Events[i].Time = now
	}
	return t.Notice
}

// view makes a decision that writes nothing. It repeats the decision while what it reads changes.
func (s *Service) view(ctx context.Context, decide func(*record.Tx) error) (err error) {
	for range tries {
		t := record.NewTx(ctx, s.store)
		t.ReadOnly = true
		if err = decide(t); !errors.Is(err, record.ErrChanged) {
			break
		}
	}
	return err
}
