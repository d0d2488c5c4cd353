package pool

import (
	"context"
	"reflect"
	"slices"
)

// Making is where the record of a pool is kept that somebody asked for, from before its backend
// changes anything until the pool itself is on record.
const Making = "making/"

// intend puts on record that a pool is to be made. What was begun before under the same name, of
// the same things, and cut short goes on under the UUID that it had then: that may be on its
// disks by now, and a pool of another one would be refused there.
func (p *Pools) intend(ctx context.Context, name string, rec *Record) error {
	var begun Record
	if _, err := p.DB.Get(ctx, Making+name, &begun); err != nil {
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
	return p.DB.Put(ctx, map[string]any{Making + name: rec})
}
