package agent

import "github.com/google/uuid"

// making reports whether a dataset is needed besides its record: running work makes or reads it, a user inspects it, or
// a move continues from it.
func (a *Agent) making(id uuid.UUID) bool {
	if _, shown := a.Cache.ShownBy(id); shown || a.keys.IsStandIn(id) || a.moveTable.IsBeside(id) {
		return true
	}
	for _, op := range a.Jobs.Running() {
		if op.DatasetID == id {
			return true
		}
	}
	return false
}
