package agent

import (
	"context"
	"reflect"
	"slices"
)

// making is where the record of a pool is kept that somebody asked for, from before its backend
// changes anything until the pool itself is on record.
const making = "making/"

// intend puts on record that a pool is to be made. What was begun before under the same name, of
// the same things, and cut short goes on under the UUID that it had then: that may be on its
// disks by now, and a pool of another one would be refused there.
func (p *pools) intend(ctx context.Context, name string, rec *poolRecord) error {
	var begun poolRecord
	if _, err := p.db.Get(ctx, making+name, &begun); err != nil {
		return err
	}
	want := *rec
	want.ID = begun.ID
	if slices.Equal(want.Devices, begun.Devices) {
		want.Devices = begun.Devices // none is none
	}
	if reflect.DeepEqual(begun, want) {
		rec.ID = begun.ID
		return nil
	}
	return p.db.Put(ctx, map[string]any{making + name: rec})
}
