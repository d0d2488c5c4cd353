package controlsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// Identity has the UUID of this node, and the UUID of the cluster whose control it works with. Both are stored in the
// agent's database and in IdentityFile. Its methods are safe for concurrent use.
type Identity struct {
	*host.Host
	configured uuid.UUID // see Config.Node

	mu      sync.Mutex
	cluster uuid.UUID // of the control that this node worked with last
}

// IdentityFile is the name of a file in the root with a copy of the identity. If the agent's database is lost, a node
// with a new identity would find none of its volumes, and a node that does not know its cluster would accept an empty
// store.
const IdentityFile = "node.json"

// Load reads the identity from disk. At the first start, it makes one.
func (i *Identity) Load(ctx context.Context) error {
	var id nodeIdentity
	known, err := i.DB.Get(ctx, "identity", &id)
	if err != nil {
		return err
	}
	if i.Recovered, err = i.DB.Get(ctx, host.RecoveredKey, &struct{}{}); err != nil {
		return err
	}
	if !known {
		var damage error
		if id, damage, err = readIdentity(i.Root); err != nil {
			return err
		}
		if damage != nil {
			i.Log.WithError(damage).WithField("file", IdentityFile).
				Error("the file with the identity of this node is damaged")
		}
		i.Recovered = id.Node != uuid.Nil
		if i.Recovered {
			i.Log.Warn("the agent's state was lost: uses of volumes are being determined")
		} else if id.Node = i.configured; id.Node == uuid.Nil {
			id.Node = uuid.New()
		}
		first := map[string]any{"identity": id}
		if i.Recovered {
			first[host.RecoveredKey] = struct{}{}
		}
		if err := i.DB.Put(ctx, first); err != nil {
			return err
		}
	}
	i.NodeID, i.cluster = id.Node, id.Cluster
	i.Trust.Set(id.StoreProblem)
	return i.write(id)
}

// SetCluster records which cluster this node works with, and why the store of its control is inconsistent: on disk, and
// then in Trust. An empty problem means that the store is consistent.
func (i *Identity) SetCluster(ctx context.Context, cluster uuid.UUID, problem string) error {
	id := nodeIdentity{Node: i.NodeID, Cluster: cluster, StoreProblem: problem}
	if err := i.DB.Put(ctx, map[string]any{"identity": id}); err != nil {
		return err
	}
	if err := i.write(id); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cluster = cluster
	i.Trust.Set(problem)
	return nil
}

// identityFormat is the format of IdentityFile.
const identityFormat = 1

// readIdentity reads the file in a root. If it does not exist or is damaged, it returns a zero identity, and damage
// says what is damaged. It fails with dataset.ErrUnsupported if the file has a later format.
func readIdentity(root string) (id nodeIdentity, damage, err error) {
	b, err := os.ReadFile(filepath.Join(root, IdentityFile))
	if errors.Is(err, os.ErrNotExist) {
		return id, nil, nil
	}
	if err == nil {
		err = dataset.DecodeFormat(b, IdentityFile, identityFormat, &id)
		if err != nil && !errors.Is(err, dataset.ErrUnsupported) {
			return nodeIdentity{}, err, nil
		}
	}
	if err != nil {
		return nodeIdentity{}, nil, fmt.Errorf("identity of this node: %w", err)
	}
	return id, nil, nil
}

// KnownNode returns the node that a root belongs to, according to the file in it. It returns uuid.Nil if the file
// does not exist or is damaged.
func KnownNode(root string) (uuid.UUID, error) {
	id, _, err := readIdentity(root)
	return id.Node, err
}

// write writes the file durably if it differs.
func (i *Identity) write(id nodeIdentity) error {
	if old, _, err := readIdentity(i.Root); err != nil || old == id {
		return err
	}
	b, err := json.Marshal(struct {
		Format int `json:"format"`
		nodeIdentity
	}{identityFormat, id})
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(i.Root, IdentityFile), append(b, '\n')); err != nil {
		return fmt.Errorf("identity of this node: %w", err)
	}
	return nil
}

type nodeIdentity struct {
	Node    uuid.UUID `json:"node"`
	Cluster uuid.UUID `json:"cluster,omitzero"` // whose control it last worked with
	// StoreProblem says why the store of that control is inconsistent. It is kept on disk because the agent may
	// restart. By then, the indexes of an older store may have reached those that this node has seen, and the store
	// would no longer be recognized as older.
	StoreProblem string `json:"strange,omitempty"`
}

// Cluster returns the cluster whose control this node worked with last, or uuid.Nil if there was none.
func (i *Identity) Cluster() uuid.UUID {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cluster
}

// AcceptAny makes this node accept the store of any cluster. It is called after an operator had the store rebuilt.
func (i *Identity) AcceptAny() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cluster = uuid.Nil
}

// Check fails if the agent's database cannot be read.
func (i *Identity) Check(ctx context.Context) error {
	_, err := i.DB.Get(ctx, "identity", &nodeIdentity{})
	return err
}
