package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/steps"
)

// Tx is one decision: its reads, its writes and its notices. It remembers the index of every key that it
// read, and commits its writes only if none of these keys has changed since. It is not safe for concurrent use.
type Tx struct {
	FirstTry      bool // this is the first attempt, which may use cached entries: see UseCached
	ReadOnly      bool // the decision is a plan that is not committed; a later transaction decides again and commits
	WithoutNotice bool // no caller is notified of its changes
	Recovering    bool // the decision belongs to a recovery, which may end moves in a halted store

	// Notice is sent to the callers that wait for the changes, after the transaction is committed.
	Notice Notice

	// By is who requested the change, for its events: see dataset.Operation. NewTx takes it from the context.
	By string

	ctx     context.Context
	store   store.Store
	read    map[string]store.Entry // Index is 0 if the key was read and is absent
	peeked  map[string]store.Entry // the same for keys that the commit does not check
	assumed Assumptions            // see Assume
	writes  []store.Write          // one for each key, in the order in which the keys were first written
}

// NewTx begins a decision on a store. The caller commits it with Commit.
func NewTx(ctx context.Context, st store.Store) *Tx {
	return &Tx{
		By: requestid.By(ctx), ctx: ctx, store: st, read: map[string]store.Entry{}, peeked: map[string]store.Entry{},
	}
}

// Get reads key into v, which must be empty, and reports whether the key exists. It sees the writes of this
// transaction. The commit checks that the key has not changed.
func (t *Tx) Get(key string, v any) (bool, error) {
	if i := t.writeIndex(key); i >= 0 {
		if t.writes[i].Delete {
			return false, nil
		}
		return true, Decode(key, t.writes[i].Value, v)
	}
	if e, assumed := t.assumed[key]; assumed {
		if e.Index == 0 {
			return false, nil
		}
		return true, Decode(key, e.Value, v)
	}
	e, seen := t.read[key]
	if !seen {
		if e, seen = t.peeked[key]; !seen {
			var err error
			if e, err = t.Fetch(key); err != nil {
				return false, err
			}
		}
		t.read[key] = e
	}
	if e.Index == 0 {
		return false, nil
	}
	return true, Decode(key, e.Value, v)
}

// Fetch reads an entry from the store. If the key does not exist, the index of the entry is 0.
func (t *Tx) Fetch(key string) (store.Entry, error) {
	e, err := t.store.Get(t.ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return e, ReadError(t.ctx, err)
	}
	e.Key = key
	return e, nil
}

// Index returns the index of a key that Get has read: that of the transaction that last wrote it.
func (t *Tx) Index(key string) uint64 { return t.read[key].Index }

// Entry returns the entry of a key that Get has read. Its index is 0 if the key does not exist, or if Get has not read
// it.
func (t *Tx) Entry(key string) store.Entry { return t.read[key] }

// CheckUnchanged makes the commit fail unless the key of e still has the index of e. It does not read the key.
func (t *Tx) CheckUnchanged(e store.Entry) { t.read[e.Key] = e }

// Context is the context of the request that the transaction is for.
func (t *Tx) Context() context.Context { return t.ctx }

// Peek reads key into v. The commit does not check the key, and Peek does not see the writes of this transaction. Use
// it for a decision that examines more keys than one transaction can check. Read the records on which the decision
// depends with Get.
func (t *Tx) Peek(key string, v any) (bool, error) {
	e, seen := t.peeked[key]
	if !seen {
		var err error
		if e, err = t.Fetch(key); err != nil {
			return false, err
		}
		t.peeked[key] = e
	}
	if e.Index == 0 {
		return false, nil
	}
	return true, Decode(key, e.Value, v)
}

// Prefetch reads keys that will be needed, all in one call. The commit checks only those that Get returns. A store on
// the network needs as much time for one key as for a hundred.
func (t *Tx) Prefetch(keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	entries, err := t.store.GetMany(t.ctx, keys)
	if err != nil {
		return ReadError(t.ctx, err)
	}
	for _, e := range entries {
		t.peeked[e.Key] = e
	}
	return nil
}

// UseCached lets Get return cached entries as if they had just been read. The commit checks the entries that Get has
// returned. If one of them is outdated, the commit fails, and the next attempt reads the store.
func (t *Tx) UseCached(entries ...store.Entry) {
	if !t.FirstTry || t.ReadOnly {
		return
	}
	for _, e := range entries {
		if _, known := t.read[e.Key]; !known {
			t.peeked[e.Key] = e
		}
	}
}

// Assumptions are entries that a transaction takes as if the store had them, by key.
type Assumptions map[string]store.Entry

// Assume lets t.Get return entries as if the store had them. It is for a preview that continues an earlier one: the
// entries are those that the earlier one would have written. A transaction that assumes entries must not be committed.
func Assume(t *Tx, entries Assumptions) { t.assumed = entries }

// Written returns the entries that the commit of t would write under a prefix. The index of a deleted entry is 0, and
// that of any other entry is 1, because the commit has not assigned one.
func Written(t *Tx, prefix string) Assumptions {
	out := Assumptions{}
	for _, w := range t.writes {
		if !strings.HasPrefix(w.Key, prefix) {
			continue
		}
		e := store.Entry{Key: w.Key}
		if !w.Delete {
			e.Value, e.Index = w.Value, 1
		}
		out[e.Key] = e
	}
	return out
}

// List reads entries. As with Peek, the commit does not check them, and List does not see the writes of this
// transaction.
func (t *Tx) List(prefix, after string, limit int) ([]store.Entry, error) {
	entries, err := t.store.List(t.ctx, prefix, after, limit)
	return entries, ReadError(t.ctx, err)
}

// Entries reads the entries under a prefix in the order of their keys, and size of them in one call. As with List, the
// commit does not check them. After an error it ends.
func Entries(t *Tx, prefix string, size int) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for after := ""; ; {
			entries, err := t.List(prefix, after, size)
			if err != nil {
				yield(store.Entry{}, err)
				return
			}
			for _, e := range entries {
				if after = e.Key; !yield(e, nil) {
					return
				}
			}
			if len(entries) < size {
				return
			}
		}
	}
}

// Put writes v as JSON to a key.
func (t *Tx) Put(key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	t.Write(store.Write{Key: key, Value: b})
	return nil
}

// PutWithSession writes a key that is deleted with a session.
func (t *Tx) PutWithSession(key string, v any, session string) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	t.Write(store.Write{Key: key, Value: b, Session: session})
	return nil
}

// DeleteExisting reads a key into v, which must be empty, and deletes the key if it exists.
func (t *Tx) DeleteExisting(key string, v any) error {
	there, err := t.Get(key, v)
	if there {
		t.Delete(key)
	}
	return err
}

// Delete deletes a key, whether it exists or not.
func (t *Tx) Delete(key string) { t.Write(store.Write{Key: key, Delete: true}) }

// Write adds a write. It replaces an earlier write of the same key.
func (t *Tx) Write(w store.Write) {
	if i := t.writeIndex(w.Key); i >= 0 {
		t.writes[i] = w
		return
	}
	t.writes = append(t.writes, w)
}

// writeIndex returns the index of the write of a key; -1 if there is none.
func (t *Tx) writeIndex(key string) int {
	return slices.IndexFunc(t.writes, func(w store.Write) bool { return w.Key == key })
}

// Event publishes an event about a dataset with the commit.
func (t *Tx) Event(typ api.EventType, d dataset.Dataset, detail string) {
	t.Notice.Events = append(t.Notice.Events, api.Event{Type: typ, Volume: d.Volume, Dataset: d.ID, Detail: detail})
}

// PutDataset writes a record and wakes the agent of its home.
func (t *Tx) PutDataset(d dataset.Dataset) error {
	t.NotifyDataset(d.ID, d.Home)
	return t.Put(DatasetKey(d.ID), d)
}

// NotifyDataset notifies the agent of a node that a dataset changed.
func (t *Tx) NotifyDataset(ds, node uuid.UUID) {
	t.Notice.Datasets = append(t.Notice.Datasets, ds)
	t.WakeNode(node)
}

// NotifyCopies notifies the nodes with a copy of a dataset that its names or its state changed. Their engines list it.
func NotifyCopies(t *Tx, d dataset.Dataset) {
	for _, node := range d.Copies {
		t.NotifyDataset(d.ID, node)
	}
}

// WakeNode notifies the agent of a node that its work changed.
func (t *Tx) WakeNode(node uuid.UUID) {
	if !slices.Contains(t.Notice.Nodes, node) {
		t.Notice.Nodes = append(t.Notice.Nodes, node)
	}
}

// Outcome returns the error of a decision that writes nothing, or nil. It first checks that all records that the
// decision read existed at the same moment, because a refusal must not depend on records of different moments. If the
// check fails, it returns ErrBusy.
func (t *Tx) Outcome(err error) error {
	known := dataset.KindOf(err)
	if known == dataset.ErrUnavailable || known == dataset.ErrCorrupt || t.ctx.Err() != nil {
		return err
	}
	now, rerr := t.store.GetMany(t.ctx, slices.Collect(maps.Keys(t.read)))
	if rerr != nil {
		return ReadError(t.ctx, rerr)
	}
	for _, e := range now {
		if e.Index != t.read[e.Key].Index {
			return ErrBusy
		}
	}
	return err
}

// HasWrite reports whether the transaction writes a key.
func (t *Tx) HasWrite(key string) bool { return t.writeIndex(key) >= 0 }

// Writes returns the writes of the transaction, in the order in which their keys were first written.
func (t *Tx) Writes() []store.Write { return t.writes }

// CommitTimeout bounds a transaction. A transaction continues even if its caller has left: if it was committed, or if
// its outcome is unknown, the notice about its changes must be sent.
const CommitTimeout = 30 * time.Second

// Commit writes everything in one transaction of the store, which checks all keys that were read, and returns its
// index. It fails with store.ErrConflict if one of the keys has changed.
func (t *Tx) Commit() (uint64, error) {
	checks := make([]store.Precondition, 0, len(t.read))
	for k, e := range t.read {
		if steps.Off("read-set") && t.writeIndex(k) < 0 {
			continue
		}
		checks = append(checks, store.Precondition{Key: k, Index: e.Index})
	}
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), CommitTimeout)
	defer cancel()
	return t.store.Txn(ctx, checks, t.writes)
}

// ErrChanged means that the values that were read are not from one moment. The caller reads them again. If the values
// still contradict each other, the store is damaged, and the error that wraps ErrChanged describes the damage.
var ErrChanged = errors.New("the record changed while it was read")

// ErrBusy is an ErrChanged whose text is meant for users. A commit that was refused returns it. Ledger.Update repeats
// the decision, so a user gets ErrBusy only if the records still change after many attempts.
var ErrBusy = dataset.Errorf(dataset.ErrConflict, "too many changes at once to the same object: %w (try again)",
	ErrChanged)

// inconsistentError is an ErrChanged. Its text describes the damage of the store, for the case that the values still
// contradict each other when they are read again.
type inconsistentError string

func (e inconsistentError) Error() string      { return string(e) }
func (inconsistentError) Is(target error) bool { return target == ErrChanged }

// Inconsistent returns the error for two values that contradict each other. It wraps ErrChanged, because the values
// may have been read at different moments. If values that were read at one moment contradict each other, the store is
// damaged, and the error becomes a dataset.ErrCorrupt with the same text.
func Inconsistent(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "store: %w", inconsistentError(fmt.Sprintf(format, args...)))
}

// ReadError turns an error of the store while reading into one of the API. A failed read is never reported as
// absence.
func ReadError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, dataset.ErrCorrupt), errors.Is(err, dataset.ErrInvalid):
		return err
	case errors.Is(err, dataset.ErrUnsupported): // this replica does not know the format, but another one may
		return dataset.Errorf(dataset.ErrUnavailable, "this control service cannot use the store: %w", err)
	}
	return dataset.Errorf(dataset.ErrUnavailable, "the store does not respond: %w", err)
}

// CommitError turns an error of the store while committing into one of the API. Unless the kind is dataset.ErrInvalid
// or dataset.ErrCorrupt, the transaction may have been committed.
func CommitError(ctx context.Context, err error) error {
	if errors.Is(err, store.ErrTooLarge) {
		return dataset.Errorf(dataset.ErrInvalid, "store: %w", err)
	}
	return ReadError(ctx, err)
}
