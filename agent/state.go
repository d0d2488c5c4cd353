package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// state is what the agent keeps on its own disk. Keys:
//
//	identity               nodeIdentity
//	recovered              the state was lost, and control has not yet said what is mounted
//	incarnations           incarnations
//	engine                 engineRecord
//	recovery               the last recovery of control's store that was taken in
//	standing               standingRecord
//	clock                  the highest clock of control's store, some seconds late
//	mounts/<dataset>       mountRecord
//	spellings/<name>       spellingRecord
//	volumes/<dataset>      api.Indexed, a copy for when control is away
//	copies/<dataset>       api.Kept, what this node keeps of a dataset whose home is elsewhere
//	yields/<dataset>       yieldRecord
//	pulls/<dataset>        pullRecord
//	enrolled/<dataset>/<node>  a node that was given something of a dataset
//	pools/<name>           poolRecord
//	making/<name>          poolRecord of a pool that is being made, as asked: see intend
//	limits/<dataset>       limitRecord
//	left/<device>          limitRecord, of what could not be taken away
type state struct{ store store.Store }

type nodeIdentity struct {
	Node    uuid.UUID `json:"node"`
	Cluster uuid.UUID `json:"cluster,omitzero"` // whose control it last worked with
	// Strange says why that one's store is not to be believed. It stays so over a
	// restart, with which the indexes of an older store come up to what was seen.
	Strange string `json:"strange,omitempty"`
}

// mountRecord is who uses a mounted dataset. It is void on another boot.
type mountRecord struct {
	Boot  string             `json:"boot"`
	Epoch uint64             `json:"epoch"`
	IDs   map[string]idCount `json:"ids"`
}

type idCount struct {
	Count      int       `json:"count"`
	Generation uint64    `json:"generation"`
	Since      time.Time `json:"since"`
	As         string    `json:"as,omitempty"` // the spelling that the engine mounted it by
	// Tool is which engine mounted it. Empty: not known.
	Tool plugin.Tool `json:"tool,omitempty"`
	// Older says that an engine mounted with this ID again after it had ended once: Count may lack
	// a use by a container that outlived the engine (live-restore).
	Older bool `json:"older,omitempty"`
	// Ended says that the engine has unmounted as often as it mounted, as far as is known, but a
	// process still had the dataset mounted. The use ends once none has.
	Ended bool `json:"ended,omitempty"`
	// inherited is true if some of the uses were read from disk when the agent started. They may have
	// ended while no agent ran.
	inherited bool
	// mounted is the time of the last Mount since the agent started, by the steady clock.
	mounted time.Duration
}

type spellingRecord struct {
	Dataset uuid.UUID `json:"dataset"`
	Used    []string  `json:"used"`
	// Podman says that Podman made or mounted the volume on this node. See removableBy.
	Podman bool `json:"podman,omitempty"`
}

type poolRecord struct {
	ID      uuid.UUID    `json:"id"`
	Backend string       `json:"backend"`
	Path    string       `json:"path"`
	Image   dataset.Size `json:"image,omitempty"`
	Mount   string       `json:"mount,omitempty"`
	Devices []string     `json:"devices,omitempty"`
	Trimmed time.Time    `json:"trimmed,omitzero"` // when its devices were last told what is free
	Default bool         `json:"default,omitempty"`
	// Found says that nobody has looked yet at what was incoming when this node took
	// the pool in, Doubtful what of it nobody can say whether it was acknowledged.
	Found    bool        `json:"found,omitempty"`
	Doubtful []uuid.UUID `json:"doubtful,omitempty"`
	// Generation is the highest that this node has heard of; see openPool.held.
	Generation uint64 `json:"generation,omitempty"`
	// Share is the one that it was made on; see openPool.inform.
	Share uuid.UUID `json:"share,omitzero"`
	// Leaving says that it is being removed, Off that control has taken it off its record: then it
	// may be cleared in part, and is no pool any more. See RemovePool.
	Leaving leaving `json:"leaving,omitempty"`
	Off     bool    `json:"off,omitempty"`
}

// get reads key into v and reports whether it is there.
func (s state) get(ctx context.Context, key string, v any) (bool, error) {
	e, err := s.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("agent's state: %w", err)
	}
	if err := json.Unmarshal(e.Value, v); err != nil {
		return false, dataset.Errorf(dataset.ErrCorrupt, "agent's state: value of %s is damaged: %w", key, err)
	}
	return true, nil
}

// put writes values under their keys, nil deletes, in one durable transaction.
func (s state) put(ctx context.Context, values map[string]any) error {
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

// each calls fn with the rest of every key under prefix and its raw value.
func (s state) each(ctx context.Context, prefix string, fn func(rest string, value []byte) error) error {
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
