package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/steps"
)

// An encrypted dataset has a random data key, which its home generates when it makes the dataset. The record has
// the data key wrapped by a key of the operator. The profile says where that key is. It is not stored anywhere,
// and is read each time.

// keyring gives pools the data keys of their datasets.
type keyring struct{ a *Agent }

var _ backends.Keys = keyring{}

// DataKey implements backends.Keys. Control's record comes before the record beside the data, which may be from
// before the key was exchanged. For a copy, however, the record here may be the older one. The wrapping that
// opens gives the data key, whichever it is.
func (k keyring) DataKey(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if h, is := ctx.Value(inHand{}).(atHand); is && d.Encryption != nil && h.id == d.ID &&
		h.wrapped == d.Encryption.ID {
		return bytes.Clone(h.data), nil
	}
	of := k.a.standsFor(d.ID)
	records := []dataset.Dataset{d}
	now, known := k.a.Cache.DatasetOrCopy(of)
	if known && now.Encryption != nil && (d.Encryption == nil || d.Encryption.ID == now.Encryption.ID) {
		records[0] = now
		if d.Encryption != nil && d.Encryption.KeyID != now.Encryption.KeyID {
			records = append(records, d)
		}
	}
	var why error
	for _, r := range records {
		key, err := k.a.dataKey(ctx, of, r)
		if err == nil {
			return key, nil
		}
		if why == nil {
			why = err
		}
	}
	return nil, why
}

// atHand is in the context of work that makes a dataset while writers wait for it: its data key, because no
// program should run then.
type atHand struct {
	id, wrapped uuid.UUID // of the dataset, and of the data key
	data        []byte
}

type inHand struct{}

// dataKey returns the data key in a record. of is the dataset for which the operator's key is read.
func (a *Agent) dataKey(ctx context.Context, of uuid.UUID, d dataset.Dataset) ([]byte, error) {
	if d.Encryption == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and there is no data key in its record")
	}
	key, err := a.operatorKey(ctx, d.Profile, of)
	if err != nil {
		return nil, fmt.Errorf("%w; its data key is wrapped by key %s", err, d.Encryption.KeyID)
	}
	return key.Unwrap(*d.Encryption)
}

// standIn lets a dataset that has no record stand for another one until end is called: a clone that is read, or
// what a move makes. It is not reaped until then.
func (a *Agent) standIn(id, of uuid.UUID) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scratch[id] = of
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.scratch, id)
	}
}

// standsFor returns the dataset that another one stands for, or the dataset itself if it stands for none.
func (a *Agent) standsFor(id uuid.UUID) uuid.UUID {
	if k, is := a.Cache.ShownBy(id); is {
		return k.Dataset
	}
	a.mu.Lock()
	of, is := a.scratch[id]
	a.mu.Unlock()
	if is {
		return of
	}
	if of, is := a.moveTable.BesideCopyOf(id); is {
		return of
	}
	return id
}

// operatorKey reads the key of a profile.
func (a *Agent) operatorKey(ctx context.Context, p dataset.Profile, id uuid.UUID) (keys.Key, error) {
	from := p.Encryption
	if !from.Wanted() {
		return keys.Key{}, dataset.Errorf(dataset.ErrForbidden, "profile %s names no key", p.Name)
	}
	if len(from.Exec) > 0 {
		if err := safeProgram(from.Exec, a.config.FencePrograms); err != nil {
			return keys.Key{}, dataset.Errorf(dataset.ErrForbidden, "key of profile %s: %s", p.Name, err.Error())
		}
	}
	return keys.Read(ctx, a.runner(), from, keys.Ask{Profile: p.Name, Dataset: id})
}

// seal gives a dataset that will be made its data key: a new one, that of the dataset it is cloned from, or that
// of an earlier attempt. If a key is not here, it changes nothing. withKey is the context in which the dataset is
// made: for a clone, whose key was verified, it has the data key.
func (a *Agent) seal(ctx context.Context, pool backends.Pool, op *dataset.Operation) (withKey context.Context,
	err error) {
	d := op.Dataset
	var from dataset.Dataset
	if op.Source != nil {
		from, _ = a.Cache.DatasetOrCopy(op.Source.Dataset)
		if is, wanted := from.Encryption != nil, d.Profile.Encryption.Wanted(); is != wanted {
			return ctx, dataset.Errorf(dataset.ErrInvalid,
				"of it and what it is cloned from one is encrypted, and the other is not")
		}
	}
	if !d.Profile.Encryption.Wanted() {
		return ctx, nil
	}
	key, err := a.operatorKey(ctx, d.Profile, d.ID)
	if err != nil {
		return ctx, err
	}
	e, err := pool.Stat(ctx, d.ID)
	switch {
	case err == nil && e.Record != nil && e.Record.Encryption != nil:
		d.Encryption = e.Record.Encryption
		data, err := key.Unwrap(*d.Encryption)
		if err == nil && op.Source != nil {
			ctx = context.WithValue(ctx, inHand{}, atHand{d.ID, d.Encryption.ID, data})
		}
		return ctx, err
	case err != nil && !errors.Is(err, dataset.ErrNotFound):
		return ctx, err
	}
	id, data := keys.NewDataKey()
	wrapped := key.Wrap(id, data) // the pool opens the wrapped key, to make a dataset that it can open
	if op.Source != nil {
		if data, err = (keyring{a}).DataKey(ctx, from); err != nil {
			return ctx, fmt.Errorf("what it is cloned from: %w", err)
		}
		if wrapped, err = a.wrap(ctx, key, *d, from.Encryption.ID, data); err != nil {
			return ctx, err
		}
		ctx = context.WithValue(ctx, inHand{}, atHand{d.ID, wrapped.ID, data})
	}
	d.Encryption = &wrapped
	return ctx, nil
}

// wrap wraps a data key by the key of a dataset's profile, and verifies the wrapping: it reads the key again,
// which must open it. A key that was read while it was being written, or that a program prints only once, could
// not open the dataset later.
func (a *Agent) wrap(ctx context.Context, key keys.Key, d dataset.Dataset, id uuid.UUID,
	data []byte) (e dataset.Encryption, err error) {
	e = key.Wrap(id, data)
	again, err := a.operatorKey(ctx, d.Profile, d.ID)
	if err != nil {
		return e, fmt.Errorf("read once more: %w", err)
	}
	if again.ID() != key.ID() {
		return e, dataset.Errorf(dataset.ErrForbidden,
			"%s was key %s, and read once more it is key %s: nothing was wrapped by it (try again when it "+
				"stays as it is)", dataset.Clip(d.Profile.Encryption.String()), key.ID(), again.ID())
	}
	opened, err := again.Unwrap(e)
	if err == nil && !bytes.Equal(opened, data) {
		err = dataset.Errorf(dataset.ErrCorrupt, "what was wrapped by key %s opens as something else", key.ID())
	}
	return e, err
}

// canOpen fails with ErrForbidden if the key of a dataset that will move here is not on this node. d is control's
// record: the one of a copy here may be older.
func (a *Agent) canOpen(ctx context.Context, d dataset.Dataset) error {
	if d.Encryption == nil {
		return nil
	}
	_, err := a.dataKey(ctx, d.ID, d)
	return err
}

// noteKey writes the data key, as control's record has it wrapped, to the record beside a copy or beside what a
// move has left: then the old key is not needed any more. The dataset's lock is held.
func (a *Agent) noteKey(ctx context.Context, pool backends.Pool, k api.Kept) error {
	if k.Record == nil || k.Record.Encryption == nil {
		return nil
	}
	e, err := pool.Stat(ctx, k.Dataset)
	if errors.Is(err, dataset.ErrNotFound) || err == nil &&
		(e.State == backends.EntryForeign || e.State == backends.EntryDeleting || e.Record == nil ||
			e.Record.Encryption == nil) {
		return nil
	}
	if err != nil {
		return err
	}
	d, now := *e.Record, *k.Record.Encryption
	if d.Encryption.ID != now.ID || d.Encryption.KeyID == now.KeyID {
		return nil
	}
	d.Encryption, d.Profile = &now, d.Profile.Clone()
	d.Profile.Encryption = k.Record.Profile.Clone().Encryption
	return pool.WriteRecord(ctx, d, true)
}

// doRekey wraps a data key by the key that the profile has now. Only the record changes, in one step, after the
// new wrapping was verified. A crash before that changes nothing, and the operation is idempotent. The keys are
// read before the dataset is locked, so that mounts do not wait for them.
func (a *Agent) doRekey(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, _, unlock, err := a.hold(ctx, *op, "rekey")
	unlock()
	for tries := 0; err == nil && tries < rekeyTries; tries++ {
		steps.At("rekey.begin")
		jb.Step("wrapping the data key")
		next, err := a.rewrap(ctx, d, *op)
		if err != nil {
			return out, fmt.Errorf("rekey of volume %s: %w", d.Volume, err)
		}
		var done bool
		if d, out, done, err = a.exchange(ctx, *op, d, next); done || err != nil {
			return out, err
		}
	}
	if err == nil {
		err = dataset.Errorf(dataset.ErrConflict,
			"rekey of volume %s: its key was exchanged meanwhile, %d times: try again", d.Volume, rekeyTries)
	}
	return out, err
}

// rekeyTries is how often the keys are read while other requests exchange them.
const rekeyTries = 3

// exchange records a data key that was wrapped again, if d is still the present record. Otherwise it returns the
// present record.
func (a *Agent) exchange(ctx context.Context, op dataset.Operation, d dataset.Dataset,
	next dataset.Encryption) (now dataset.Dataset, out api.Committed, done bool, err error) {
	now, pool, unlock, err := a.hold(ctx, op, "rekey")
	defer unlock()
	if err != nil || !reflect.DeepEqual(now.Encryption, d.Encryption) ||
		!now.Profile.Encryption.Equal(d.Profile.Encryption) {
		return now, out, false, err
	}
	to := *op.Dataset
	to.Encryption, op.Dataset = &next, &to
	steps.At("rekey.made")
	if out, err = a.commit(context.WithoutCancel(ctx), &op); err == nil {
		steps.At("rekey.recorded")
		a.noteDone(ctx, pool, *out.Dataset)
	}
	return now, out, true, err
}

func (a *Agent) rewrap(ctx context.Context, d dataset.Dataset, op dataset.Operation) (next dataset.Encryption,
	err error) {
	if d.Encryption == nil {
		return next, dataset.Errorf(dataset.ErrUnsupported, "it is not encrypted")
	}
	key, err := a.operatorKey(ctx, op.Dataset.Profile, d.ID)
	if err != nil {
		return next, fmt.Errorf("the new key: %w", err)
	}
	old := key
	if d.Encryption.KeyID != key.ID() {
		if op.Path != "" {
			old, err = keys.ReadFile(op.Path)
		} else {
			old, err = a.operatorKey(ctx, d.Profile, d.ID)
		}
	}
	if err != nil {
		return next, fmt.Errorf("the old key, %s: %w", d.Encryption.KeyID, err)
	}
	data, err := old.Unwrap(*d.Encryption)
	if err != nil {
		return next, err
	}
	return a.wrap(ctx, key, *op.Dataset, d.Encryption.ID, data)
}
