package operation_test

import (
	"errors"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A snapshot or a clone that fails on a frozen volume thaws it: its writers continue.
func TestFailedSnapshotThawsVolume(t *testing.T) {
	t.Parallel()
	for act, req := range map[string]api.Request{
		"snapshot": {Kind: dataset.OpSnapshot, Volume: "db"},
		"clone":    {Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "db"}},
	} {
		t.Run(act, func(t *testing.T) {
			f := agenttest.NewCluster(t, "loop", "dir")
			f.A.NewVolume("db@still", nil)
			path := f.A.MustMount("db", "user")
			frozen := false
			f.A.Fuse.Set(-1, false, func(now string) {
				if now == act {
					frozen = !agenttest.CanWrite(t, path, 100*time.Millisecond)
				}
			})
			broken := errors.New("the disk does not take it")
			f.A.Fuse.FailNext(act, broken)
			if err := f.A.Requests.Perform(t.Context(), req); !errors.Is(err, broken) {
				t.Errorf("%s: %v", act, err)
			}
			if !frozen {
				t.Errorf("%s: the volume was not frozen", act)
			}
			if !agenttest.CanWrite(t, path, 20*time.Second) {
				t.Errorf("%s: the volume is still frozen", act)
			}
			f.A.MustUnmount("db", "user")
		})
	}
}
