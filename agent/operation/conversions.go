package operation

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// ConversionsDeps is what Conversions needs of other components.
type ConversionsDeps struct {
	*host.Host
	// MoveSpellings records that the spellings of one dataset belong to another one.
	MoveSpellings func(ctx context.Context, from uuid.UUID, to dataset.Dataset) error
}

// Conversions has the conversions in progress, and those whose outcome may be unknown: control may have recorded them,
// and this node has not applied the answer. The latter are on disk. The former dataset of such a conversion must not be
// mounted: its files could be in the trash already, and changes of them would be missing in the volume. The methods are
// safe for concurrent use.
type Conversions struct {
	deps ConversionsDeps

	mu       sync.Mutex
	running  map[uuid.UUID]dataset.Operation // by the former dataset
	reported map[uuid.UUID]reportedConversion
}

// reportedConversion is the record of a conversion whose outcome may be unknown.
type reportedConversion struct {
	Operation uuid.UUID `json:"operation"`
	To        uuid.UUID `json:"to"` // the new dataset
}

// NewConversions returns a Conversions without conversions.
func NewConversions(deps ConversionsDeps) *Conversions {
	return &Conversions{
		deps: deps, running: map[uuid.UUID]dataset.Operation{}, reported: map[uuid.UUID]reportedConversion{},
	}
}

// conversionKey returns the key of the record of a conversion, by the former dataset.
func conversionKey(former uuid.UUID) string { return "converting/" + former.String() }

// Load reads the reported conversions from disk.
func (c *Conversions) Load(ctx context.Context) error {
	return c.deps.DB.Each(ctx, "converting/", func(rest string, v []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var r reportedConversion
		if err := dataset.DecodeRecord(v, &r); err != nil {
			return err
		}
		c.reported[id] = r
		return nil
	})
}

// CheckMount fails if a dataset must not be mounted because of a conversion: with dataset.ErrConflict while the
// conversion is in progress, and with dataset.ErrPending while its outcome is unknown.
func (c *Conversions) CheckMount(d dataset.Dataset) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op, is := c.running[d.ID]; is {
		return dataset.Converting(op, "mount of volume "+d.Volume)
	}
	if r, is := c.reported[d.ID]; is {
		return dataset.Errorf(dataset.ErrPending,
			"mount of volume %s: its conversion may have ended, and control has not answered since (operation %s; try "+
				"again when control is reachable)", d.Volume, r.Operation.String()[:8])
	}
	return nil
}

// begin adds a conversion that is in progress, until end is called.
func (c *Conversions) begin(op dataset.Operation) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[op.DatasetID] = copyOperation(op)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.running, op.DatasetID)
	}
}

// note records, durably, that a conversion is about to be reported to control.
func (c *Conversions) note(ctx context.Context, op dataset.Operation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := reportedConversion{op.ID, op.DatasetRecord.ID}
	if err := c.deps.DB.Put(ctx, map[string]any{conversionKey(op.DatasetID): r}); err != nil {
		return err
	}
	c.reported[op.DatasetID] = r
	return nil
}

// forget records that the outcome of a conversion is known.
func (c *Conversions) forget(ctx context.Context, former uuid.UUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forgetLocked(ctx, former)
}

// forgetIdle is forget for a conversion that control has not recorded, unless a new attempt has begun.
func (c *Conversions) forgetIdle(ctx context.Context, former uuid.UUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, runs := c.running[former]; runs {
		return nil
	}
	return c.forgetLocked(ctx, former)
}

func (c *Conversions) forgetLocked(ctx context.Context, former uuid.UUID) error {
	if err := c.deps.DB.Put(ctx, map[string]any{conversionKey(former): nil}); err != nil {
		return err
	}
	delete(c.reported, former)
	return nil
}

// end moves the spellings of the former dataset to the new one, and records that the outcome is known.
func (c *Conversions) end(ctx context.Context, former uuid.UUID, next dataset.Dataset) error {
	if err := c.deps.MoveSpellings(ctx, former, next); err != nil {
		return err
	}
	return c.forget(ctx, former)
}

// Settle ends the reported conversions that do not run. The caller has applied a full answer of control, so the cache
// has the records of both datasets.
func (c *Conversions) Settle(ctx context.Context) (err error) {
	c.mu.Lock()
	reported := maps.Clone(c.reported)
	maps.DeleteFunc(reported, func(former uuid.UUID, _ reportedConversion) bool {
		_, runs := c.running[former]
		return runs
	})
	c.mu.Unlock()
	for former, r := range reported {
		if next, known := c.deps.Cache.Dataset(r.To); known {
			err = errors.Join(err, c.end(ctx, former, next))
		} else {
			err = errors.Join(err, c.forgetIdle(ctx, former))
		}
	}
	return err
}
