package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/internal/durable"
)

// identityName is a file in the root that also says who this node is. If the agent's database is lost, a node
// with a new identity would find none of its volumes, and a node that does not know its cluster would accept an
// empty store.
const identityName = "node.json"

// identify reads who this node is, or makes an identity once.
func (a *Agent) identify(ctx context.Context) error {
	var id nodeIdentity
	known, err := a.DB.Get(ctx, "identity", &id)
	if err != nil {
		return err
	}
	if a.Recovered, err = a.DB.Get(ctx, host.RecoveredKey, &struct{}{}); err != nil {
		return err
	}
	if !known {
		if id, err = a.readIdentity(); err != nil {
			return err
		}
		a.Recovered = id.Node != uuid.Nil
		if a.Recovered {
			a.Log.Warn("the agent's own state was lost: who used what is on the way to be found out")
		} else if id.Node = a.config.Identity; id.Node == uuid.Nil {
			id.Node = uuid.New()
		}
		first := map[string]any{"identity": id}
		if a.Recovered {
			first[host.RecoveredKey] = struct{}{}
		}
		if err := a.DB.Put(ctx, first); err != nil {
			return err
		}
	}
	a.NodeID, a.cluster = id.Node, id.Cluster
	a.Trust.Set(id.Strange)
	return a.writeIdentity(id)
}

// belong writes to disk which cluster this node works with, and why the store of its control is inconsistent.
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

// readIdentity reads the file. If it does not exist or cannot be read, it returns a zero identity.
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

// KnownNode returns the node that a root belongs to, according to the file in it. It returns uuid.Nil if the file
// does not exist or cannot be read.
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

// writeIdentity writes the file durably if it differs.
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
