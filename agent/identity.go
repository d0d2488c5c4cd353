package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/durable"
)

// identityName is a file in the root that says once more who this node is. The
// agent's own state can be lost; a node that then took another name would find
// none of its volumes, and one that did not know its cluster any more would take
// an empty store for the one it had.
const identityName = "node.json"

// recoveredKey is there until control has said what is mounted here, once the agent's own
// state was lost.
const recoveredKey = "recovered"

// identify learns who this node is, or makes it up, once.
func (a *Agent) identify(ctx context.Context) error {
	var id nodeIdentity
	known, err := a.DB.Get(ctx, "identity", &id)
	if err != nil {
		return err
	}
	if a.recovered, err = a.DB.Get(ctx, recoveredKey, &struct{}{}); err != nil {
		return err
	}
	if !known {
		if id, err = a.readIdentity(); err != nil {
			return err
		}
		a.recovered = id.Node != uuid.Nil
		if a.recovered {
			a.Log.Warn("the agent's own state was lost: who used what is on the way to be found out")
		} else if id.Node = a.config.Identity; id.Node == uuid.Nil {
			id.Node = uuid.New()
		}
		first := map[string]any{"identity": id}
		if a.recovered {
			first[recoveredKey] = struct{}{}
		}
		if err := a.DB.Put(ctx, first); err != nil {
			return err
		}
	}
	a.NodeID, a.cluster = id.Node, id.Cluster
	a.Trust.Set(id.Strange)
	return a.writeIdentity(id)
}

// belong puts on disk whose control this node works with, and why its store is
// strange.
func (a *Agent) belong(ctx context.Context, cluster uuid.UUID, strange string) error {
	id := nodeIdentity{Node: a.NodeID, Cluster: cluster, Strange: strange}
	if err := a.DB.Put(ctx, map[string]any{"identity": id}); err != nil {
		return err
	}
	if err := a.writeIdentity(id); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cluster = cluster
	a.Trust.Set(strange)
	return nil
}

// readIdentity reads the file; a zero node when there is none, or none that can
// be read.
func (a *Agent) readIdentity() (id nodeIdentity, err error) {
	b, err := os.ReadFile(filepath.Join(a.Root, identityName))
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("who this node is: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		a.Log.WithError(err).WithField("file", identityName).Error("what says who this node is, is damaged")
		return nodeIdentity{}, nil
	}
	return id, nil
}

// KnownNode returns the node that a root belongs to, by the file in it; nil when there is
// none, or none that can be read.
func KnownNode(root string) (uuid.UUID, error) {
	b, err := os.ReadFile(filepath.Join(root, identityName))
	if errors.Is(err, os.ErrNotExist) {
		return uuid.Nil, nil
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("who this node is: %w", err)
	}
	var id nodeIdentity
	if json.Unmarshal(b, &id) != nil {
		return uuid.Nil, nil
	}
	return id.Node, nil
}

// writeIdentity brings the file up to date, durably. Nothing when it is.
func (a *Agent) writeIdentity(id nodeIdentity) error {
	if old, err := a.readIdentity(); err != nil || old == id {
		return err
	}
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(a.Root, identityName), append(b, '\n')); err != nil {
		return fmt.Errorf("who this node is: %w", err)
	}
	return nil
}

type nodeIdentity struct {
	Node    uuid.UUID `json:"node"`
	Cluster uuid.UUID `json:"cluster,omitzero"` // whose control it last worked with
	// Strange says why the store of that control is inconsistent. It is kept on disk, because after a restart
	// the indexes of an older store may have reached those that this node has seen.
	Strange string `json:"strange,omitempty"`
}
