package operation

import (
	"context"
	"fmt"
	"reflect"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/steps"
)

// Rekey wraps a data key by the present key of the profile. Only the record changes. It changes in one step, after
// the new wrapping was verified. A crash before that step changes nothing, and the operation is idempotent. The keys
// are read before the dataset is locked, so that mounts do not wait for them.
func (o *Operations) Rekey(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, _, unlock, err := o.LockForOperation(ctx, *op, "rekey")
	unlock()
	for tries := 0; err == nil && tries < rekeyTries; tries++ {
		steps.At("rekey.begin")
		jb.Step("wrapping the data key")
		next, err := o.rewrap(ctx, d, *op)
		if err != nil {
			return out, fmt.Errorf("rekey of volume %s: %w", d.Volume, err)
		}
		var done bool
		if d, out, done, err = o.exchange(ctx, *op, d, next); done || err != nil {
			return out, err
		}
	}
	if err == nil {
		err = dataset.Errorf(dataset.ErrConflict,
			"rekey of volume %s: its key was replaced meanwhile, %d times: try again", d.Volume, rekeyTries)
	}
	return out, err
}

// rekeyTries is the maximum number of attempts if other requests change the record between the reading of the keys and
// the exchange.
const rekeyTries = 3

// exchange records a data key that was wrapped again, if d is still the present record. Otherwise it returns the
// present record.
func (o *Operations) exchange(ctx context.Context, op dataset.Operation, d dataset.Dataset,
	next dataset.Encryption) (now dataset.Dataset, out api.Committed, done bool, err error) {
	now, pool, unlock, err := o.LockForOperation(ctx, op, "rekey")
	defer unlock()
	if err == nil {
		err = checkLive(now, "rekey")
	}
	if err != nil || !reflect.DeepEqual(now.Encryption, d.Encryption) ||
		!now.Profile.Encryption.Equal(d.Profile.Encryption) {
		return now, out, false, err
	}
	to := *op.DatasetRecord
	to.Encryption, op.DatasetRecord = &next, &to
	steps.At("rekey.made")
	if out, err = o.Commit(context.WithoutCancel(ctx), &op); err == nil {
		steps.At("rekey.recorded")
		o.WriteRecord(ctx, pool, *out.Dataset)
	}
	return now, out, true, err
}

func (o *Operations) rewrap(ctx context.Context, d dataset.Dataset, op dataset.Operation) (next dataset.Encryption,
	err error) {
	if d.Encryption == nil {
		return next, dataset.Errorf(dataset.ErrUnsupported, "it is not encrypted")
	}
	key, err := o.Keys.OperatorKey(ctx, op.DatasetRecord.Profile, d.ID)
	if err != nil {
		return next, fmt.Errorf("the new key: %w", err)
	}
	old := key
	if d.Encryption.KeyID != key.ID() {
		if op.Path != "" {
			old, err = keys.ReadFile(op.Path)
		} else {
			old, err = o.Keys.OperatorKey(ctx, d.Profile, d.ID)
		}
	}
	if err != nil {
		return next, fmt.Errorf("the old key, %s: %w", d.Encryption.KeyID, err)
	}
	data, err := old.Unwrap(*d.Encryption)
	if err != nil {
		return next, err
	}
	return o.Keys.Wrap(ctx, key, *op.DatasetRecord, d.Encryption.ID, data)
}
