package placement

import (
	"github.com/droverhq/drover/dataset"
)

// What makes two pools alike, by weight. LikeKind: snapshots of one can be received by the other.
const (
	likeName = 1
	LikeKind = 2
)

// Likeness returns how similar two pools are. From LikeKind on, a dataset moves with its filesystem and snapshots.
func Likeness(from, to dataset.Pool) (n int) {
	if from.Backend == to.Backend && from.Capabilities.Delta && to.Capabilities.Delta {
		n += LikeKind
	}
	if from.Name == to.Name {
		n += likeName
	}
	return n
}

// Takes returns the candidate with Whole and Anew set for data that comes from another pool.
func (c Candidate) Takes(from dataset.Pool) Candidate {
	c.Whole = Likeness(from, c.Pool) >= LikeKind
	c.Anew = !c.Whole && !OnOneShare(from, c.Pool)
	return c
}
