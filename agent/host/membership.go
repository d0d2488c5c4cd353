package host

import (
	"context"
	"sync"

	"github.com/droverhq/drover/dataset"
)

// Membership records whether control accepts this node: whether control has registered this agent, and whether the node
// was removed from the cluster. controlsync.Registration reads the answers of control and sets both. Its methods are
// safe for concurrent use.
type Membership struct {
	db     DB
	joined chan struct{} // closed by SetJoined
	once   sync.Once

	mu      sync.Mutex
	removed string // why control refuses this node, if it was removed from the cluster; also on disk
}

// NewMembership returns the membership of a node that control has not registered yet.
func NewMembership(db DB) *Membership {
	return &Membership{db: db, joined: make(chan struct{})}
}

// removedKey is the key of Membership.removed.
const removedKey = "removed"

// Load reads from disk whether the node was removed. It is called once, before the other methods.
func (m *Membership) Load(ctx context.Context) error {
	_, err := m.db.Get(ctx, removedKey, &m.removed)
	return err
}

// SetJoined records that control has registered this agent, and that its answer is applied. Idempotent.
func (m *Membership) SetJoined() { m.once.Do(func() { close(m.joined) }) }

// Joined returns a channel that is closed when SetJoined is called.
func (m *Membership) Joined() <-chan struct{} { return m.joined }

// HasJoined reports whether control has accepted this node since it started.
func (m *Membership) HasJoined() bool {
	select {
	case <-m.joined:
		return true
	default:
		return false
	}
}

// Check fails with dataset.ErrRemoved if control reported last that this node was removed from the cluster. The node's
// volumes may then be opened by other nodes, so containers that run keep their volumes, and no other gets one.
func (m *Membership) Check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.removed == "" {
		return nil
	}
	return dataset.Errorf(dataset.ErrRemoved, "this node mounts nothing any more: %s", m.removed)
}

// SetRemoved records why this node was removed, in memory and then on disk. An empty string means that it is a member.
func (m *Membership) SetRemoved(ctx context.Context, why string) error {
	m.mu.Lock()
	same := m.removed == why
	m.removed = why
	m.mu.Unlock()
	if same {
		return nil
	}
	return m.db.Put(context.WithoutCancel(ctx), map[string]any{removedKey: why})
}
