package operation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
)

// Keyring provides pools with the data keys of their datasets, and generates the data key of each new dataset. Its
// methods are safe for concurrent use.
type Keyring struct {
	*host.Host
	Programs *host.Programs // that print keys
	Moved    MovedFiles     // set before the agent starts

	mu       sync.Mutex
	borrowed map[uuid.UUID]uuid.UUID // dataset without a record → owner of its key
}

var _ backends.Keys = (*Keyring)(nil)

// MovedFiles knows the datasets in which moves collect files. A move that copies file by file collects them beside the
// copy that this node has.
type MovedFiles interface {
	// CopyBeside returns the dataset that is moved, if id is such a collection. Otherwise it returns false.
	CopyBeside(id uuid.UUID) (ds uuid.UUID, is bool)
}

// NewKeyring returns the Keyring of a host. The programs print keys.
func NewKeyring(h *host.Host, programs *host.Programs) *Keyring {
	return &Keyring{Host: h, Programs: programs, borrowed: map[uuid.UUID]uuid.UUID{}}
}

// DataKey implements backends.Keys. d is the record beside the data. DataKey tries control's record in the cache before
// d, because the operator's key may have been exchanged after d was written. For a copy, however, control's record may
// be the older one. DataKey returns the data key of the first record that can be unwrapped. If none can, it returns the
// error of the first one. If ctx has the data key (see Seal), DataKey returns that one and reads no key.
func (k *Keyring) DataKey(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if h, is := ctx.Value(dataKeyContext{}).(contextDataKey); is && d.Encryption != nil && h.id == d.ID &&
		h.wrapped == d.Encryption.ID {
		return bytes.Clone(h.data), nil
	}
	of := k.keyOwner(d.ID)
	records := []dataset.Dataset{d}
	now, known := k.Cache.DatasetOrCopy(of)
	if known && now.Encryption != nil && (d.Encryption == nil || d.Encryption.ID == now.Encryption.ID) {
		records[0] = now
		if d.Encryption != nil && d.Encryption.KeyID != now.Encryption.KeyID {
			records = append(records, d)
		}
	}
	var why error
	for _, r := range records {
		key, err := k.dataKey(ctx, of, r)
		if err == nil {
			return key, nil
		}
		if why == nil {
			why = err
		}
	}
	return nil, why
}

// contextDataKey is a data key that is passed in a context. Some datasets are made while writers are blocked, and the
// program that prints the operator's key must not run meanwhile. So the data key is read before the writers are
// blocked.
type contextDataKey struct {
	id, wrapped uuid.UUID // the UUIDs of the dataset and of its data key
	data        []byte
}

// dataKeyContext is the key of a contextDataKey in a context.
type dataKeyContext struct{}

// dataKey returns the data key that is wrapped in the record d. If a program prints the operator's key, the program
// gets the UUID in the argument "of". This UUID differs from d.ID if d borrows a key.
func (k *Keyring) dataKey(ctx context.Context, of uuid.UUID, d dataset.Dataset) ([]byte, error) {
	if d.Encryption == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and its record has no data key")
	}
	key, err := k.OperatorKey(ctx, d.Profile, of)
	if err != nil {
		return nil, fmt.Errorf("%w; its data key is wrapped by key %s", err, d.Encryption.KeyID)
	}
	return key.Unwrap(*d.Encryption)
}

// BorrowKey lets the dataset id, which has no record, use the data key of another dataset until end is called. The
// argument "of" is the owner of the key. The borrower is, for example, a temporary clone that is read, or a dataset
// that a move makes. Until end is called, the cleanup does not remove the borrower as an orphan.
func (k *Keyring) BorrowKey(id, of uuid.UUID) (end func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.borrowed[id] = of
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.borrowed, id)
	}
}

// BorrowsKey reports whether a dataset without a record uses the data key of another one now.
func (k *Keyring) BorrowsKey(id uuid.UUID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, is := k.borrowed[id]
	return is
}

// keyOwner returns the dataset whose data key the dataset id uses: id itself unless id borrows a key.
func (k *Keyring) keyOwner(id uuid.UUID) uuid.UUID {
	if copied, is := k.Cache.InspectedCopy(id); is {
		return copied.Dataset
	}
	k.mu.Lock()
	of, is := k.borrowed[id]
	k.mu.Unlock()
	if is {
		return of
	}
	if of, is := k.Moved.CopyBeside(id); is {
		return of
	}
	return id
}

// OperatorKey reads the key of a profile. A program that prints the key gets id, the UUID of the dataset, or uuid.Nil
// for a check.
func (k *Keyring) OperatorKey(ctx context.Context, p dataset.Profile, id uuid.UUID) (keys.Key, error) {
	from := p.Encryption
	if !from.Wanted() {
		return keys.Key{}, dataset.Errorf(dataset.ErrForbidden, "profile %s has no key", p.Name)
	}
	if len(from.Exec) > 0 {
		if err := k.Programs.Check(from.Exec); err != nil {
			return keys.Key{}, dataset.Errorf(dataset.ErrForbidden, "key of profile %s: %s", p.Name, err.Error())
		}
	}
	return keys.Read(ctx, k.Programs, from, keys.KeyRequest{Profile: p.Name, Dataset: id})
}

// Seal sets the wrapped data key in the record of a dataset that will be made. A clone gets the data key of its source.
// A repeated attempt gets the data key of the earlier one. Any other dataset gets a new data key. If a key is not on
// this node, Seal fails with ErrForbidden and changes nothing. It fails with ErrInvalid if only one of a clone and its
// source is encrypted. The caller makes the dataset with the returned context withKey, which for a clone contains the
// data key.
func (k *Keyring) Seal(ctx context.Context, pool backends.Pool, op *dataset.Operation) (withKey context.Context,
	err error) {
	d := op.DatasetRecord
	var from dataset.Dataset
	if op.Source != nil {
		from, _ = k.Cache.DatasetOrCopy(op.Source.Dataset)
		if is, wanted := from.Encryption != nil, d.Profile.Encryption.Wanted(); is != wanted {
			return ctx, dataset.Errorf(dataset.ErrInvalid,
				"either it or its source is encrypted, but not both")
		}
	}
	if !d.Profile.Encryption.Wanted() {
		return ctx, nil
	}
	key, err := k.OperatorKey(ctx, d.Profile, d.ID)
	if err != nil {
		return ctx, err
	}
	e, err := pool.Stat(ctx, d.ID)
	switch {
	case err == nil && e.Record != nil && e.Record.Encryption != nil:
		d.Encryption = e.Record.Encryption
		data, err := key.Unwrap(*d.Encryption)
		if err == nil && op.Source != nil {
			ctx = context.WithValue(ctx, dataKeyContext{}, contextDataKey{d.ID, d.Encryption.ID, data})
		}
		return ctx, err
	case err != nil && !errors.Is(err, dataset.ErrNotFound):
		return ctx, err
	}
	id, data := keys.NewDataKey()
	wrapped := key.Wrap(id, data) // not verified by Wrap, because the pool unwraps it to make the dataset
	if op.Source != nil {
		if data, err = k.DataKey(ctx, from); err != nil {
			return ctx, fmt.Errorf("source of the clone: %w", err)
		}
		if wrapped, err = k.Wrap(ctx, key, *d, from.Encryption.ID, data); err != nil {
			return ctx, err
		}
		ctx = context.WithValue(ctx, dataKeyContext{}, contextDataKey{d.ID, wrapped.ID, data})
	}
	d.Encryption = &wrapped
	return ctx, nil
}

// Wrap wraps a data key by the key of a dataset's profile, and verifies the wrapping: it reads the key again, which
// must open it. This detects a key that was read while it was being written, and a program that prints its key only
// once. Such a key could not open the dataset later.
func (k *Keyring) Wrap(ctx context.Context, key keys.Key, d dataset.Dataset, id uuid.UUID,
	data []byte) (e dataset.Encryption, err error) {
	e = key.Wrap(id, data)
	again, err := k.OperatorKey(ctx, d.Profile, d.ID)
	if err != nil {
		return e, fmt.Errorf("read again: %w", err)
	}
	if again.ID() != key.ID() {
		return e, dataset.Errorf(dataset.ErrForbidden,
			"%s was key %s, and the second read returned key %s: no key was wrapped (try again when the key no "+
				"longer changes)", dataset.Clip(d.Profile.Encryption.String()), key.ID(), again.ID())
	}
	opened, err := again.Unwrap(e)
	if err == nil && !bytes.Equal(opened, data) {
		err = dataset.Errorf(dataset.ErrCorrupt, "wrapping by key %s failed: unwrapping returns something "+
			"else", key.ID())
	}
	return e, err
}

// CanOpen fails with ErrForbidden if the key of a dataset that will move here is not on this node. d is control's
// record, because the record of a copy here may be older.
func (k *Keyring) CanOpen(ctx context.Context, d dataset.Dataset) error {
	if d.Encryption == nil {
		return nil
	}
	_, err := k.dataKey(ctx, d.ID, d)
	return err
}

// UpdateCopyKey copies the wrapped data key of control's record to the record beside a copy, or beside the data that a
// move left behind. After that the previous key of the operator is not needed any more. UpdateCopyKey changes nothing
// if the two records have different data keys. The caller holds the dataset's lock.
func (k *Keyring) UpdateCopyKey(ctx context.Context, pool backends.Pool, kept api.AssignedCopy) error {
	if kept.Record == nil || kept.Record.Encryption == nil {
		return nil
	}
	e, err := pool.Stat(ctx, kept.Dataset)
	if errors.Is(err, dataset.ErrNotFound) || err == nil &&
		(e.State == backends.EntryForeign || e.State == backends.EntryDeleting || e.Record == nil ||
			e.Record.Encryption == nil) {
		return nil
	}
	if err != nil {
		return err
	}
	d, now := *e.Record, *kept.Record.Encryption
	if d.Encryption.ID != now.ID || d.Encryption.KeyID == now.KeyID {
		return nil
	}
	d.Encryption, d.Profile = &now, d.Profile.Clone()
	d.Profile.Encryption = kept.Record.Profile.Clone().Encryption
	return pool.WriteRecord(ctx, d, true)
}
