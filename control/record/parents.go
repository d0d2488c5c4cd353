package record

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Parents is the value of a dataset's key under parents/: the backups that can be restic's parent of the next one. The
// key is absent if there is none.
type Parents struct {
	Dataset uuid.UUID      `json:"dataset"`
	Of      []ParentBackup `json:"of"` // at most one for each repository
}

// ParentBackup is a backup whose files have the content that their change times say. restic does not read a file that
// has the same size, inode and times as in the parent. So the parent must be exact (see dataset.Snapshot), and since
// then, only writes may have changed the volume.
type ParentBackup struct {
	Repository string    `json:"repository"`
	ID         string    `json:"id"`
	Session    string    `json:"session"`           // of the volume when it was made; in another one it is no parent
	Content    uint64    `json:"content"`           // that of the dataset when the backup was planned
	Recovery   uuid.UUID `json:"recovery,omitzero"` // last recovery of the store when the backup was recorded
}

// maxParents bounds Parents.Of. The oldest are dropped.
const maxParents = 32

// ParentOf returns the backup that can be restic's parent of the next backup of a dataset in a repository. It has no ID
// if there is none.
func ParentOf(t *Tx, d dataset.Dataset, repository string) (b ParentBackup, err error) {
	var p Parents
	if there, err := t.Get(ParentsKey(d.ID), &p); err != nil || !there {
		return b, err
	}
	recovery, err := lastRecovery(t)
	if err != nil {
		return b, err
	}
	restores, err := restores(t, d.ID)
	if err != nil || restores {
		return b, err
	}
	for _, o := range p.Of {
		if o.Repository == repository && o.Content == d.Content && o.Recovery == recovery {
			b = o
		}
	}
	return b, nil
}

// PutParent records the backup that an operation has made as the parent of the next one, if it can be that. It keeps
// the recorded one if it cannot.
func PutParent(t *Tx, op dataset.Operation) error {
	if op.ExactSession == "" || op.Snapshot != nil {
		return nil
	}
	var d dataset.Dataset
	there, err := t.Get(DatasetKey(op.DatasetID), &d)
	if err != nil || !there || d.Content != op.Content || d.Epoch != op.Epoch {
		return err
	}
	if restores, err := restores(t, d.ID); err != nil || restores {
		return err
	}
	b := ParentBackup{Repository: op.Repository, ID: op.Backup, Session: op.ExactSession, Content: d.Content}
	if b.Recovery, err = lastRecovery(t); err != nil {
		return err
	}
	var p Parents
	if _, err := t.Get(ParentsKey(d.ID), &p); err != nil {
		return err
	}
	p.Dataset = d.ID
	p.Of = slices.DeleteFunc(p.Of, func(o ParentBackup) bool { return o.Repository == b.Repository })
	p.Of = append(p.Of, b)
	p.Of = p.Of[max(0, len(p.Of)-maxParents):]
	return t.Put(ParentsKey(d.ID), p)
}

// EndContent says in the record of a dataset, which the caller writes, that its content is replaced other than by
// writes. No backup made before is the parent of a later one, also one that still runs.
func EndContent(t *Tx, d *dataset.Dataset) {
	d.Content++
	t.Delete(ParentsKey(d.ID))
}

// restores reports whether a restore of a dataset to a snapshot has not ended. Its home can have replaced the content
// already.
func restores(t *Tx, id uuid.UUID) (bool, error) {
	open := false
	err := eachOpen(t, func(op dataset.Operation) {
		open = open || op.Kind == dataset.OpRestore && op.DatasetID == id
	})
	return open, err
}

// lastRecovery returns the ID of the last recovery of the store. A store that was restored from a backup can have a
// former record of parents.
func lastRecovery(t *Tx) (uuid.UUID, error) {
	var r Recovery
	_, err := t.Peek(RecoveryKey, &r)
	return r.ID, err
}
