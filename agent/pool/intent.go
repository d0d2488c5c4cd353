package pool

import (
	"context"
	"reflect"
	"slices"
)

// Making is the prefix under which the agent's database has the record of a requested pool, from before its
// backend changes anything until the pool itself is recorded.
const Making = "making/"

// intend records that a pool is about to be made. If making the same pool under the same name was interrupted, it
// continues with the UUID of then: the UUID may be on the disks already, and a pool with another one would be
// refused there.
func (p *Pools) intend(ctx context.Context, name string, rec *Record) error {
	var begun Record
	if _, err := p.DB.Get(ctx, Making+name, &begun); err != nil {
		return err
	}
	want := *rec
	want.ID = begun.ID
	if slices.Equal(want.Devices, begun.Devices) {
		want.Devices = begun.Devices // so that an empty and a nil list compare as equal
	}
	if reflect.DeepEqual(begun, want) {
		rec.ID = begun.ID
		return nil
	}
	return p.DB.Put(ctx, map[string]any{Making + name: rec})
}
