package operation

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// ConversionsDeps is what Conversions needs of other components.
type ConversionsDeps struct {
	*host.Host
	// EndReservation ends the reservation of a dataset that an earlier process of this agent has made.
	EndReservation func(d dataset.Dataset)
}

// Conversions has the conversions in progress, and those whose outcome may be unknown: this node has reported them to
// control, and control may have recorded them, or may still do so. Those of unknown outcome are also on disk. While the
// outcome is unknown, the former dataset must not be mounted or changed: its files could be in the trash already, or
// soon, and changes of them would be missing in the volume. Another node must not mount it either, so its reservation
// stays. The new dataset must not be removed: control may have recorded it. The methods are safe for concurrent use.
type Conversions struct {
	deps ConversionsDeps

	mu       sync.Mutex
	running  map[uuid.UUID]*runningConversion // by the former dataset
	reported map[uuid.UUID]reportedConversion
	reserved map[uuid.UUID]func() // ends the reservation of the former dataset of a reported conversion
	changed  chan struct{}        // closed, and replaced, when an entry of running or reported is removed
}

// runningConversion is a conversion in progress. reported is true once it is about to be reported to control.
type runningConversion struct {
	op       dataset.Operation
	reported bool
}

// reportedConversion is the record of a conversion whose outcome may be unknown.
type reportedConversion struct {
	Operation uuid.UUID `json:"operation"`
	To        uuid.UUID `json:"to"` // the new dataset
	// Made is the record of the new dataset that was reported. A later attempt reports the same record.
	Made *dataset.Dataset `json:"made,omitempty"`
}

// NewConversions returns a Conversions without conversions.
func NewConversions(deps ConversionsDeps) *Conversions {
	return &Conversions{
		deps: deps, running: map[uuid.UUID]*runningConversion{}, reported: map[uuid.UUID]reportedConversion{},
		reserved: map[uuid.UUID]func(){}, changed: make(chan struct{}),
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
	if r, is := c.running[d.ID]; is {
		return dataset.Converting(r.op, "mount of volume "+d.Volume)
	}
	if r, is := c.reported[d.ID]; is {
		return dataset.Errorf(dataset.ErrPending,
			"mount of volume %s: its conversion may have ended, and this node could not apply the end yet (drover "+
				"operation inspect %s; try again once control and the pools are available)", d.Volume,
			r.Operation.String()[:8])
	}
	return nil
}

// CheckOperation fails with dataset.ErrConflict if an operation must not change a live dataset, because the outcome of
// a conversion of the dataset is unknown. The conversion itself may continue.
func (c *Conversions) CheckOperation(d dataset.Dataset, op dataset.Operation, what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, is := c.reported[d.ID]
	if !is || r.Operation == op.ID || d.State != dataset.StateReady {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"%s of volume %s: its conversion may have ended, and this node could not apply the end yet (drover operation "+
			"inspect %s; try again once control and the pools are available)", what, d.Volume, r.Operation.String()[:8])
}

// IsInDoubt reports whether the outcome of a conversion of a dataset may be unknown.
func (c *Conversions) IsInDoubt(former uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, is := c.reported[former]
	return is
}

// HasMade reports whether a dataset is the new one of a conversion whose outcome may be unknown.
func (c *Conversions) HasMade(id uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.reported {
		if r.To == id {
			return true
		}
	}
	return false
}

// begin adds a conversion that is in progress, until end is called.
func (c *Conversions) begin(op dataset.Operation) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[op.DatasetID] = &runningConversion{op: copyOperation(op)}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.running, op.DatasetID)
		c.announce()
	}
}

// note records, durably, that a conversion is about to be reported to control.
func (c *Conversions) note(ctx context.Context, op dataset.Operation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := reportedConversion{op.ID, op.DatasetRecord.ID, copyOperation(op).DatasetRecord}
	if err := c.deps.DB.Put(ctx, map[string]any{conversionKey(op.DatasetID): r}); err != nil {
		return err
	}
	c.reported[op.DatasetID] = r
	if now, runs := c.running[op.DatasetID]; runs {
		now.reported = true
	}
	return nil
}

// noted returns the record of a conversion whose outcome may be unknown.
func (c *Conversions) noted(former, op uuid.UUID) (r reportedConversion, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, is = c.reported[former]
	return r, is && r.Operation == op
}

// idle returns the reported conversions that do not run, by the former dataset.
func (c *Conversions) idle() map[uuid.UUID]reportedConversion {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reported) == 0 {
		return nil
	}
	idle := maps.Clone(c.reported)
	maps.DeleteFunc(idle, func(former uuid.UUID, _ reportedConversion) bool {
		_, runs := c.running[former]
		return runs
	})
	return idle
}

// forget records that the outcome of a conversion is known, and ends the reservation of the former dataset. Idempotent.
func (c *Conversions) forget(ctx context.Context, former, op uuid.UUID) error {
	end, err := c.removeNote(ctx, former, op)
	if err != nil {
		return err
	}
	if end != nil {
		end()
	} else if d, known := c.deps.Cache.Dataset(former); known {
		c.deps.EndReservation(d)
	}
	return nil
}

// removeNote removes the record of a conversion, and returns the function that ends the reservation. The function is
// nil if this process has no reservation for the conversion. If there is no record, the function does nothing.
func (c *Conversions) removeNote(ctx context.Context, former, op uuid.UUID) (end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, is := c.reported[former]; !is || r.Operation != op {
		return func() {}, nil
	}
	if err := c.deps.DB.Put(ctx, map[string]any{conversionKey(former): nil}); err != nil {
		return nil, err
	}
	end = c.reserved[former]
	delete(c.reported, former)
	delete(c.reserved, former)
	c.announce()
	return end, nil
}

// announce wakes the callers of AwaitOutcome. The mutex is held.
func (c *Conversions) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// outcomeTimeout is how long AwaitOutcome waits. When control has recorded a conversion, this node needs some
// milliseconds to apply the result.
const outcomeTimeout = 5 * time.Second

// AwaitOutcome waits until a conversion of a dataset that was reported to control has ended on this node. It returns
// true if there is no conversion, or none any more. It returns false at once if the conversion still copies, and false
// after outcomeTimeout or when ctx ends.
func (c *Conversions) AwaitOutcome(ctx context.Context, former uuid.UUID) bool {
	timeout := c.deps.Clock.After(outcomeTimeout)
	for {
		c.mu.Lock()
		now, runs := c.running[former]
		_, inDoubt := c.reported[former]
		copying := runs && !now.reported
		changed := c.changed
		c.mu.Unlock()
		switch {
		case !runs && !inDoubt:
			return true
		case copying:
			return false
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// endReservation ends the reservation of a dataset after an attempt of its conversion. If the outcome is unknown, the
// reservation stays until forget.
func (c *Conversions) endReservation(former uuid.UUID, end func()) {
	c.mu.Lock()
	_, inDoubt := c.reported[former]
	_, kept := c.reserved[former]
	if inDoubt && !kept {
		c.reserved[former] = end
		end = func() {}
	}
	c.mu.Unlock()
	end()
}
