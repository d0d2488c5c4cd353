package backup

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// maxBegun bounds the operations in memory. When it is reached, no further operation counts as new: their backups take
// one more run of restic.
const maxBegun = 1 << 18

// maxNewest bounds the newest backups in memory. When it is reached, all are forgotten.
const maxNewest = 10_000

// memory is what this start of the agent knows about backups, so that it need not list a repository before each backup.
// It is safe for concurrent use.
type memory struct {
	mu     sync.Mutex
	begun  map[uuid.UUID]bool
	newest map[uuid.UUID]newestBackup // by dataset
}

// newestBackup is the backup with the latest content that this agent has made of a dataset, or seen in a list.
type newestBackup struct {
	url   string // of the repository
	epoch uint64 // of the dataset: another home can have made later backups in a later epoch
	id    string
	taken time.Time
}

// begin notes that an operation runs, and reports whether no earlier run of it can have stored a backup. agent is the
// incarnation of this agent. Control writes the incarnation of the agent into an operation when it records the request.
// If it is the same, no earlier start of the agent has run the operation, and this one remembers what it has run. An
// older control writes none: then begin returns false.
func (m *memory) begin(op dataset.Operation, agent uuid.UUID) (isNew bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	isNew = op.Incarnation != uuid.Nil && op.Incarnation == agent && !m.begun[op.ID] && len(m.begun) < maxBegun
	if m.begun == nil {
		m.begun = map[uuid.UUID]bool{}
	}
	if len(m.begun) < maxBegun {
		m.begun[op.ID] = true
	}
	return isNew
}

// parent returns the ID of the newest backup of an operation's dataset in the repository at a URL, or "" if it is not
// known.
func (m *memory) parent(op dataset.Operation, url string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.newest[op.DatasetID]; n.url == url && n.epoch == op.Epoch {
		return n.id
	}
	return ""
}

// note notes a backup of an operation's dataset, unless a later one is known.
func (m *memory) note(op dataset.Operation, url string, b restic.Backup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, known := m.newest[op.DatasetID]
	if b.ID == "" || known && n.url == url && n.epoch == op.Epoch && b.Time.Before(n.taken) {
		return
	}
	if m.newest == nil || !known && len(m.newest) >= maxNewest {
		m.newest = map[uuid.UUID]newestBackup{}
	}
	m.newest[op.DatasetID] = newestBackup{url, op.Epoch, b.ID, b.Time}
}

// forget forgets the newest backup of a dataset, because the repository does not have it any more.
func (m *memory) forget(dataset uuid.UUID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.newest, dataset)
}
