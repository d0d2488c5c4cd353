package record

import (
	"slices"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

// LoadAssignedCopy returns a copy of a node in the form in which control sends it to the agent.
func LoadAssignedCopy(t *Tx, node, id uuid.UUID) (k api.AssignedCopy, there bool, err error) {
	key := CopyKey(node, id)
	if there, err = t.Get(key, &k.Copy); err != nil || !there {
		return k, false, err
	}
	k.Index = t.Index(key)
	var d dataset.Dataset
	known, err := t.Get(DatasetKey(id), &d)
	if known {
		k.Record = &d
	}
	return k, true, err
}

// SharedMountDatasets appends to ids the datasets with a shared mount on a node, each once.
func SharedMountDatasets(t *Tx, node uuid.UUID, ids []uuid.UUID) ([]uuid.UUID, error) {
	claims, err := ListAll[Claim](t, SharedMountPrefix(node))
	for _, c := range claims {
		if !slices.Contains(ids, c.ID) {
			ids = append(ids, c.ID)
		}
	}
	return ids, err
}

// RefTo returns a reference to a dataset that a user can type. For a dataset in the trash, RefTo returns the UUID
// instead of the name, because another dataset may have taken that name.
func RefTo(d dataset.Dataset) string {
	if d.State == dataset.StateReady {
		return d.Volume
	}
	return d.ID.String()
}
