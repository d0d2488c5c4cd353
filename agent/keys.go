package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/steps"
)

// An encrypted dataset has a random data key, which its home makes with it. What stands on record
// is the data key wrapped by a key of the operator: where that is says the profile. No key is kept
// anywhere: it is read each time.

// keyring has the data keys of datasets for their pools.
type keyring struct{ a *Agent }

var _ backends.Keys = keyring{}

// DataKey implements backends.Keys. What is on record goes before what lies beside the data,
// which may be of before the key was exchanged.
func (k keyring) DataKey(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	now, known := k.a.cache.either(d.ID)
	if known && now.Encryption != nil && (d.Encryption == nil || d.Encryption.ID == now.Encryption.ID) {
		d = now
	}
	if d.Encryption == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and there is no data key in its record")
	}
	key, err := k.a.operatorKey(ctx, d.Profile, d.ID)
	if err != nil {
		return nil, fmt.Errorf("%w; its data key is wrapped by key %s", err, d.Encryption.KeyID)
	}
	return key.Unwrap(*d.Encryption)
}

// operatorKey reads the key of a profile.
func (a *Agent) operatorKey(ctx context.Context, p dataset.Profile, id uuid.UUID) (keys.Key, error) {
	from := p.Encryption
	if !from.Wanted() {
		return keys.Key{}, dataset.Errorf(dataset.ErrForbidden, "profile %s names no key", p.Name)
	}
	if len(from.Exec) > 0 {
		if err := safeProgram(from.Exec, a.FencePrograms); err != nil {
			return keys.Key{}, dataset.Errorf(dataset.ErrForbidden, "key of profile %s: %s", p.Name, err.Error())
		}
	}
	return keys.Read(ctx, a.runner(), from, keys.Ask{Profile: p.Name, Dataset: id})
}

// seal gives a dataset that is to be made its data key: a new one, that of what it is cloned
// from, or what an earlier try has made it with. Nothing is changed where a key is not here.
func (a *Agent) seal(ctx context.Context, pool backends.Pool, op *dataset.Operation) error {
	d := op.Dataset
	if !d.Profile.Encryption.Wanted() {
		return nil
	}
	key, err := a.operatorKey(ctx, d.Profile, d.ID)
	if err != nil {
		return err
	}
	e, err := pool.Stat(ctx, d.ID)
	switch {
	case err == nil && e.Record != nil && e.Record.Encryption != nil:
		d.Encryption = e.Record.Encryption
		_, err := key.Unwrap(*d.Encryption)
		return err
	case err != nil && !errors.Is(err, dataset.ErrNotFound):
		return err
	}
	id, data := keys.NewDataKey()
	if op.Source != nil {
		from, known := a.cache.either(op.Source.Dataset)
		if !known || from.Encryption == nil {
			return dataset.Errorf(dataset.ErrInvalid, "what it is cloned from is not encrypted")
		}
		if data, err = (keyring{a}).DataKey(ctx, from); err != nil {
			return fmt.Errorf("what it is cloned from: %w", err)
		}
		id = from.Encryption.ID
	}
	wrapped := key.Wrap(id, data)
	d.Encryption = &wrapped
	return nil
}

// canOpen fails with ErrForbidden where the key of a dataset is not on this node that is to come
// here, before it does.
func (a *Agent) canOpen(ctx context.Context, d dataset.Dataset) error {
	if d.Encryption == nil {
		return nil
	}
	_, err := (keyring{a}).DataKey(ctx, d)
	return err
}

// doRekey wraps a data key by the key that the profile has now. The record alone changes, in one
// step: a crash before it leaves what was, and again it does the same.
func (a *Agent) doRekey(ctx context.Context, jb *job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := a.hold(ctx, *op, "rekey")
	defer unlock()
	if err != nil {
		return out, err
	}
	steps.At("rekey.begin")
	jb.step("wrapping the data key")
	next, err := a.rewrap(ctx, d, *op)
	if err != nil {
		return out, fmt.Errorf("rekey of volume %s: %w", d.Volume, err)
	}
	op.Dataset.Encryption = &next
	steps.At("rekey.made")
	if out, err = a.commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("rekey.recorded")
		a.noteDone(ctx, pool, *out.Dataset)
	}
	return out, err
}

func (a *Agent) rewrap(ctx context.Context, d dataset.Dataset, op dataset.Operation) (next dataset.Encryption, err error) {
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
	return key.Wrap(d.Encryption.ID, data), nil
}
