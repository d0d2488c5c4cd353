package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// DB is the agent's own database, on its disk. Each write is one durable transaction. It is safe for concurrent use.
// Its keys, and the types of their values, are:
//
//	format                 the format of the records: see Format
//	identity               controlsync.nodeIdentity
//	recovered              the database was lost, and control has not yet reported what is mounted
//	removed                why control removed this node from the cluster: see Membership
//	incarnations           controlsync.incarnations
//	engine                 mounting.engineRecord
//	recovery               the last recovery of control's store that this node has applied
//	standing               lease.nodesRecord
//	clock                  the highest clock of control's store, written with a delay of some seconds
//	answered               when control last answered, written with a delay of some minutes
//	mounts/<dataset>       mounting.Record
//	spellings/<name>       SpellingRecord
//	volumes/<dataset>      api.IndexedDataset, a copy for the time when control is unreachable
//	copies/<dataset>       api.AssignedCopy, the copy that this node keeps of a dataset whose home is another node
//	yields/<dataset>       lease.Relinquished
//	pulls/<dataset>        move.MoveRecord
//	enrolled/<dataset>/<node>  a node that was given a part of a dataset
//	bounded/<dataset>      the operation that gives a dataset failover auto: see lease.Marks
//	pools/<name>           pool.Record
//	making/<name>          pool.Record of a pool that is being made on request: see pool.PendingPrefix
//	limits/<dataset>       throttle.LimitRecord
//	guests/<dataset>       mounting.SharedMount of a dataset whose home is another node
//	usage/<dataset>        how full a dataset was when its filesystem was last read: see controlsync.StatusReader
//	lost/<dataset>         mounting.Loss: what a volume may have lost because its pool was full
//	undersized/<dataset>   a dataset whose size differs from the recorded size: see operation.DeferredResize
type DB struct{ store store.Store }

// OpenDB returns the database in a store, which the caller closes.
func OpenDB(st store.Store) DB { return DB{st} }

// Format is the format of the records that this version of Drover reads and writes. A later version must raise it when
// a record gets a key that this version must not ignore.
const (
	Format    = 1
	formatKey = "format"
)

// CheckFormat fails with dataset.ErrUnsupported if the records have another format than Format. In a new database, it
// records Format. It is idempotent.
func (s DB) CheckFormat(ctx context.Context) error {
	var f struct {
		Format int `json:"format"`
	}
	if _, err := s.Get(ctx, formatKey, &f); err != nil {
		return err
	}
	if err := dataset.CheckFormat("agent's state", f.Format, Format); err != nil || f.Format == Format {
		return err
	}
	f.Format = Format
	return s.Put(ctx, map[string]any{formatKey: f})
}

// Get decodes the value of key into v and reports whether there is one. It fails with ErrCorrupt if the
// value cannot be decoded.
func (s DB) Get(ctx context.Context, key string, v any) (bool, error) {
	e, err := s.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("agent's state: %w", err)
	}
	if err := dataset.DecodeRecord(e.Value, v); err != nil {
		return false, dataset.Errorf(dataset.ErrCorrupt, "agent's state: value of %s is damaged: %w", key, err)
	}
	return true, nil
}

// Put writes values under their keys in one durable transaction. A nil value deletes the key.
func (s DB) Put(ctx context.Context, values map[string]any) error {
	writes := make([]store.Write, 0, len(values))
	for k, v := range values {
		if v == nil {
			writes = append(writes, store.Write{Key: k, Delete: true})
			continue
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("agent's state: encode %s: %w", k, err)
		}
		writes = append(writes, store.Write{Key: k, Value: b})
	}
	if _, err := s.store.Txn(ctx, nil, writes); err != nil {
		return fmt.Errorf("agent's state: %w", err)
	}
	return nil
}

// PutAll is Put for any number of values. It writes them in several transactions, so after an error or a crash some may
// be on disk and others not.
func (s DB) PutAll(ctx context.Context, values map[string]any) error {
	part := map[string]any{}
	for k, v := range values {
		if part[k] = v; len(part) == store.MaxOps {
			if err := s.Put(ctx, part); err != nil {
				return err
			}
			clear(part)
		}
	}
	if len(part) == 0 {
		return nil
	}
	return s.Put(ctx, part)
}

// Each calls fn with the raw value of each key that begins with prefix, and the rest of the key. If fn returns an
// error, Each ends and returns it as ErrCorrupt, because fn decodes the value.
func (s DB) Each(ctx context.Context, prefix string, fn func(rest string, value []byte) error) error {
	list, err := s.store.List(ctx, prefix, "", 0)
	if err != nil {
		return fmt.Errorf("agent's state: %w", err)
	}
	for _, e := range list {
		if err := fn(strings.TrimPrefix(e.Key, prefix), e.Value); err != nil {
			return dataset.Errorf(dataset.ErrCorrupt, "agent's state: value of %s is damaged: %w", e.Key, err)
		}
	}
	return nil
}
