package view

import (
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
)

// counts remembers how many snapshots datasets have. Every service that adds or removes a snapshot also writes the
// dataset. So a count is right as long as the dataset has the same index.
type counts struct {
	mu        sync.Mutex
	byDataset map[uuid.UUID]count
}

type count struct {
	index uint64
	n     int
}

// maxCounts bounds the memory; above it all counts are dropped.
const maxCounts = 1 << 17

// snapshots returns the number of snapshots of a dataset. index is that of its record, which t has read.
func (c *counts) snapshots(t *record.Tx, ds uuid.UUID, index uint64) (int, error) {
	c.mu.Lock()
	known, ok := c.byDataset[ds]
	c.mu.Unlock()
	if ok && known.index == index && index != 0 {
		return known.n, nil
	}
	entries, err := t.List(record.SnapshotPrefix(ds), "", 0)
	if err != nil || index == 0 {
		return len(entries), err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byDataset == nil || len(c.byDataset) >= maxCounts {
		c.byDataset = map[uuid.UUID]count{}
	}
	c.byDataset[ds] = count{index, len(entries)}
	return len(entries), nil
}

func (c *counts) forget(ds uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byDataset, ds)
}

// Remembers reports whether anything is remembered of a dataset.
func (s *Views) Remembers(ds uuid.UUID) bool {
	s.counts.mu.Lock()
	_, counted := s.counts.byDataset[ds]
	s.counts.mu.Unlock()
	return counted || s.summaries.has(ds)
}

// Forget drops what is remembered of a dataset that does not exist any more.
func (s *Views) Forget(ds uuid.UUID) {
	s.counts.forget(ds)
	s.summaries.forget(ds)
}
