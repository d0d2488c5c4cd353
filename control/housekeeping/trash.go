package housekeeping

import (
	"context"
	"fmt"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// ExpireTrash condemns datasets whose time in the trash has passed.
func (k *Housekeeper) ExpireTrash(ctx context.Context, h *Memory) {
	entries, err := record.NewTx(ctx, k.Ledger.Store).List(record.TrashPrefix, "", 0)
	if err != nil {
		h.check(ctx, "expire trash", err)
		return
	}
	h.trashDue = time.Time{}
	for _, e := range entries {
		until, err := k.expireOne(ctx, e.Key, e.Value, h.Now)
		if err != nil && ctx.Err() == nil {
			h.reportFailure("expire "+e.Key, err)
			until = h.Now // the next round tries again
		}
		if !until.IsZero() && (h.trashDue.IsZero() || until.Before(h.trashDue)) {
			h.trashDue = until
		}
	}
	if h.clockAdvance > 0 && !h.trashDue.IsZero() {
		k.Ledger.Events.Publish(api.Event{
			Time: k.Ledger.Clock.Now(), Type: api.EventTrashHold,
			Detail: fmt.Sprintf("the clock advanced %s more than the running time of drover: this is ignored for the "+
				"trash (drover trash ls shows when each expires)", h.clockAdvance.Round(time.Minute)),
		})
	}
	h.clockAdvance = 0
}

// expireOne condemns a dataset if its time in the trash has passed. Otherwise it returns when that time passes; a zero
// time means never. A dataset also stays while the store is halted, and until its home has reported to this service
// that it trusts the store.
func (k *Housekeeper) expireOne(ctx context.Context, key string, value []byte, now time.Time) (until time.Time,
	err error) {
	var tr record.TrashEntry
	if err := record.Decode(key, value, &tr); err != nil || tr.Expires.IsZero() {
		return until, err
	}
	if left := tr.Remaining(k.Uptime.LastRunTime()); left > 0 {
		return now.Add(left), nil
	}
	id, err := record.ParseKey(key, record.TrashPrefix)
	if err != nil {
		return until, err
	}
	_, err = k.Ledger.Update(ctx, func(t *record.Tx) error {
		until = time.Time{}
		ran, err := k.Uptime.RunTime(t)
		if err != nil {
			return err
		}
		if left := tr.Remaining(ran); left > 0 {
			until = now.Add(left)
			return nil
		}
		var d dataset.Dataset
		there, err := t.Get(record.DatasetKey(id), &d)
		if err != nil || !there || d.State != dataset.StateTrashed || !tr.IsFor(d) {
			return err // the dataset was restored, and may have been deleted again
		}
		err = t.Halted()
		if dataset.KindOf(err) == dataset.ErrConflict || err == nil && !k.Reported.Heartbeat(d.Home).Trusts() {
			until = now
			return nil
		}
		if err != nil {
			return err
		}
		if err := deletion.CheckNoSupersededCopy(t, d); err != nil {
			return err
		}
		return deletion.Condemn(t, &d, k.Ledger.Clock.Now(), api.EventTrashExpire)
	})
	return until, err
}

// clockJump returns by how much the clock jumped forward. It adds two jumps: one while no service ran, and one since
// the last round of this service, compared with the steady clock. If the sum is less than record.MaxUnseen, as after a
// usual correction of the clock, it returns 0. Each jump is returned once.
func (k *Housekeeper) clockJump(h *Memory) time.Duration {
	steady, over := k.Ledger.Clock.Steady(), k.Uptime.TakeUnseen()
	if !h.wall.IsZero() {
		over += h.Now.Sub(h.wall) - (steady - h.steady)
	}
	h.wall, h.steady = h.Now, steady
	if over < record.MaxUnseen {
		return 0
	}
	return over
}
