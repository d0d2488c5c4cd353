package placement

import (
	"github.com/droverhq/drover/dataset"
)

// The weights of the properties in which two pools can be alike. With LikeKind, one pool can receive snapshots of the
// other.
const (
	likeName = 1
	LikeKind = 2
)

// Likeness returns how similar two pools are, as a sum of weights. If it is at least LikeKind, a dataset moves with its
// filesystem and snapshots.
func Likeness(from, to dataset.Pool) (n int) {
	if from.Backend == to.Backend && from.Capabilities.Delta && to.Capabilities.Delta {
		n += LikeKind
	}
	if from.Name == to.Name {
		n += likeName
	}
	return n
}

// ReceivingFrom returns the candidate with WithFilesystem or FileCopy set according to how it would receive data from
// another pool.
func (c Candidate) ReceivingFrom(from dataset.Pool) Candidate {
	c.WithFilesystem = Likeness(from, c.Pool) >= LikeKind
	c.FileCopy = !c.WithFilesystem && !OnSameShare(from, c.Pool)
	return c
}
