package volumes

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestStateOfReplica(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := api.Volume{Dataset: dataset.Dataset{Volume: "db"}}
	v.Profile.Replicas = dataset.Replicas{Count: 1, Every: dataset.Duration(10 * time.Minute)}
	for name, c := range map[string]struct {
		copy     dataset.Copy
		state    string
		verified time.Time
	}{
		"no snapshot yet": {dataset.Copy{}, replicaBuilding, time.Time{}},
		"fresh": {
			dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-time.Hour), VerifiedAt: now.Add(-29 * time.Minute)},
			replicaHealthy, now.Add(-29 * time.Minute),
		},
		"too old": {
			dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-31 * time.Minute)}, replicaStale,
			now.Add(-31 * time.Minute),
		},
	} {
		r := newVolumeCopy(v, api.CopyDetail{Copy: c.copy}, now)
		if r.State != c.state || !r.Verified.Equal(c.verified) {
			t.Errorf("%s: %s, verified %s; want %s, %s", name, r.State, r.Verified, c.state, c.verified)
		}
	}
}
