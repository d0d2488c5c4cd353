package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// tx is one decision. It remembers the index of every key that it read, and commits its writes only if none of
// these keys has changed since.
type tx struct {
	ctx    context.Context
	store  store.Store
	read   map[string]store.Entry // Index 0: read, and absent
	peeked map[string]store.Entry // the same for keys that the commit does not check
	writes []store.Write          // one for each key, in the order in which the keys were first written
	first  bool                   // it is the first attempt and may use cached entries, see suppose
	looks  bool                   // it only looks: a further transaction decides
	silent bool                   // nobody is notified of it
	mends  bool                   // it belongs to a recovery, the only thing that may change a halted store

	touched []uuid.UUID // datasets that changed
	nodes   []uuid.UUID // nodes whose agents must look
	ops     []uuid.UUID // operations that changed
	events  []api.Event
	// answered says that the response tells the agents of nodes everything.
	answered bool
	all      bool // everybody must read everything again
	// the replica that does the background work must look: what it has to do changes, although no dataset does
	house bool
}

func newTx(ctx context.Context, st store.Store) *tx {
	return &tx{ctx: ctx, store: st, read: map[string]store.Entry{}, peeked: map[string]store.Entry{}}
}

// get reads key into v, which must be empty, and reports whether the key exists. It sees the writes of this
// transaction. The commit checks that the key has not changed.
func (t *tx) get(key string, v any) (bool, error) {
	if i := t.written(key); i >= 0 {
		if t.writes[i].Delete {
			return false, nil
		}
		return true, record.Decode(key, t.writes[i].Value, v)
	}
	e, seen := t.read[key]
	if !seen {
		if e, seen = t.peeked[key]; !seen {
			var err error
			if e, err = t.fetch(key); err != nil {
				return false, err
			}
		}
		t.read[key] = e
	}
	if e.Index == 0 {
		return false, nil
	}
	return true, record.Decode(key, e.Value, v)
}

// fetch reads an entry from the store. The index is 0 if there is none.
func (t *tx) fetch(key string) (store.Entry, error) {
	e, err := t.store.Get(t.ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return e, unread(t.ctx, err)
	}
	e.Key = key
	return e, nil
}

// index returns the index of the transaction that last wrote a key that was read.
func (t *tx) index(key string) uint64 { return t.read[key].Index }

// peek reads key into v without having the commit check it. It is for looking at more keys than one transaction
// can check. Read with get what the decision depends on.
func (t *tx) peek(key string, v any) (bool, error) {
	e, seen := t.peeked[key]
	if !seen {
		var err error
		if e, err = t.fetch(key); err != nil {
			return false, err
		}
		t.peeked[key] = e
	}
	if e.Index == 0 {
		return false, nil
	}
	return true, record.Decode(key, e.Value, v)
}

// foresee reads keys that will be needed in one call, without having the commit check them: a store on the
// network takes as long for one key as for a hundred.
func (t *tx) foresee(keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	entries, err := t.store.GetMany(t.ctx, keys)
	if err != nil {
		return unread(t.ctx, err)
	}
	for _, e := range entries {
		t.peeked[e.Key] = e
	}
	return nil
}

// suppose uses cached entries as if they had just been read. The commit checks those that get returns, like all
// others. If one is outdated, the next attempt reads the store.
func (t *tx) suppose(entries ...store.Entry) {
	if !t.first || t.looks {
		return
	}
	for _, e := range entries {
		if _, known := t.read[e.Key]; !known {
			t.peeked[e.Key] = e
		}
	}
}

// list reads entries without having the commit check them, as peek does.
func (t *tx) list(prefix, after string, limit int) ([]store.Entry, error) {
	entries, err := t.store.List(t.ctx, prefix, after, limit)
	return entries, unread(t.ctx, err)
}

func (t *tx) put(key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	t.write(store.Write{Key: key, Value: b})
	return nil
}

// putBound writes a key that is deleted with a session.
func (t *tx) putBound(key string, v any, session string) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	t.write(store.Write{Key: key, Value: b, Session: session})
	return nil
}

// drop deletes a key if it exists. v is of the type of its value, and empty.
func (t *tx) drop(key string, v any) error {
	there, err := t.get(key, v)
	if there {
		t.del(key)
	}
	return err
}

func (t *tx) del(key string) { t.write(store.Write{Key: key, Delete: true}) }

func (t *tx) write(w store.Write) {
	if i := t.written(w.Key); i >= 0 {
		t.writes[i] = w
		return
	}
	t.writes = append(t.writes, w)
}

func (t *tx) written(key string) int {
	return slices.IndexFunc(t.writes, func(w store.Write) bool { return w.Key == key })
}

func (t *tx) event(typ string, d dataset.Dataset, detail string) {
	t.events = append(t.events, api.Event{Type: typ, Volume: d.Volume, Dataset: d.ID, Detail: detail})
}

// putDataset writes a record and wakes the agent of its home.
func (t *tx) putDataset(d dataset.Dataset) error {
	t.touch(d.ID, d.Home)
	return t.put(record.DatasetKey(d.ID), d)
}

func (t *tx) touch(ds, node uuid.UUID) {
	t.touched = append(t.touched, ds)
	t.wakeNode(node)
}

func (t *tx) wakeNode(node uuid.UUID) {
	if !slices.Contains(t.nodes, node) {
		t.nodes = append(t.nodes, node)
	}
}

// settled returns the outcome of a decision that writes nothing. A refusal is a decision too: what it depends on
// must have been read at one moment, otherwise settled returns errBusy.
func (t *tx) settled(err error) error {
	known := dataset.KindOf(err)
	if known == dataset.ErrUnavailable || known == dataset.ErrCorrupt || t.ctx.Err() != nil {
		return err
	}
	now, rerr := t.store.GetMany(t.ctx, slices.Collect(maps.Keys(t.read)))
	if rerr != nil {
		return unread(t.ctx, rerr)
	}
	for _, e := range now {
		if e.Index != t.read[e.Key].Index {
			return errBusy
		}
	}
	return err
}

// commitTime bounds a transaction whose caller has gone. What is decided is committed, or known to be in doubt,
// before anyone is notified.
const commitTime = 30 * time.Second

func (t *tx) commit() (uint64, error) {
	checks := make([]store.Check, 0, len(t.read))
	for k, e := range t.read {
		if steps.Off("read-set") && t.written(k) < 0 {
			continue
		}
		checks = append(checks, store.Check{Key: k, Index: e.Index})
	}
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), commitTime)
	defer cancel()
	return t.store.Txn(ctx, checks, t.writes)
}

// tries is how often a decision is repeated because what it read has changed. In each round some other
// transaction was committed, so this is no live-lock.
const tries = 64

// errTorn says that values were read that are not from one moment. They are read again. If that does not help the
// store is damaged, and the error that wraps errTorn says how.
var errTorn = errors.New("it changed while it was read")

// errBusy replaces errTorn if reading again does not help.
var errBusy = dataset.Errorf(dataset.ErrConflict, "too many changes at once to the same object: %w (try again)",
	errTorn)

// tornError is errTorn with the damage that it means if it does not pass.
type tornError string

func (e tornError) Error() string      { return string(e) }
func (tornError) Is(target error) bool { return target == errTorn }

func torn(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "store: %w", tornError(fmt.Sprintf(format, args...)))
}

// update makes one decision and commits it. It repeats the decision while what it depends on changes. It returns
// the index of the transaction; 0 if nothing was written.
func (s *Service) update(ctx context.Context, decide func(*tx) error) (index uint64, err error) {
	for n := range tries {
		if index, err = s.try(ctx, n == 0, decide); !errors.Is(err, errTorn) {
			break
		}
	}
	return index, err
}

func (s *Service) try(ctx context.Context, first bool, decide func(*tx) error) (uint64, error) {
	t := newTx(ctx, s.store)
	t.first = first
	err := s.keepsHouse(t)
	if err == nil {
		err = decide(t)
	}
	if err != nil || len(t.writes) == 0 {
		return 0, t.settled(err)
	}
	return s.commit(t)
}

// commit commits the decision and notifies those who wait; in the same transaction it notifies those who follow
// another service.
func (s *Service) commit(t *tx) (uint64, error) {
	told, l := s.tidingOf(t), (*lane)(nil)
	if s.out != nil && !t.silent && (!told.Empty() || t.ticks()) {
		var w store.Write
		var err error
		if l, w, err = s.out.take(t.ctx, told); err != nil {
			return 0, err
		}
		t.write(w)
		t.read[l.key] = store.Entry{Key: l.key, Index: l.index}
	}
	_, reads := s.highest.get()
	index, err := t.commit()
	refused := errors.Is(err, store.ErrConflict)
	if l != nil {
		known := err == nil || errors.Is(err, store.ErrTooLarge)
		if refused {
			var lerr error
			if known, lerr = s.laneIsOurs(t.ctx, l); lerr != nil {
				err, refused = lerr, false
			}
		}
		s.out.done(l, index, known)
		if err == nil {
			s.highest.made(reads)
		}
	}
	s.recalled.drop(t.writes)
	switch {
	case err == nil:
		s.publish(told)
		return index, nil
	case refused:
		return 0, errBusy
	}
	// It may have been committed: wake those who wait, so that they look for themselves.
	told.Answered = false
	s.feed.Publish(told)
	return 0, unwritten(t.ctx, err)
}

func (s *Service) tidingOf(t *tx) notify.Notice {
	now := s.Clock.Now()
	for i := range t.events {
		t.events[i].Time = now
	}
	return notify.Notice{
		Nodes:    t.nodes,
		Datasets: t.touched,
		Ops:      t.ops,
		Events:   t.events,
		Answered: t.answered,
		All:      t.all,
		House:    t.house,
	}
}

// view makes a decision that writes nothing. It repeats the decision while what it reads changes.
func (s *Service) view(ctx context.Context, decide func(*tx) error) (err error) {
	for range tries {
		t := newTx(ctx, s.store)
		t.looks = true
		if err = decide(t); !errors.Is(err, errTorn) {
			break
		}
	}
	return err
}

// unread turns an error of the store while reading into one of the API. A failed read is never reported as
// absence.
func unread(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, dataset.ErrCorrupt), errors.Is(err, dataset.ErrInvalid):
		return err
	}
	return dataset.Errorf(dataset.ErrUnavailable, "the store does not answer: %w", err)
}

// unwritten does the same for a transaction. Every kind but dataset.ErrInvalid and dataset.ErrCorrupt leaves open
// whether it was committed.
func unwritten(ctx context.Context, err error) error {
	if errors.Is(err, store.ErrTooLarge) {
		return dataset.Errorf(dataset.ErrInvalid, "store: %w", err)
	}
	return unread(ctx, err)
}
