package handover_test

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
)

// A host without a guard refuses a new use of a mounted volume with failover auto, and continues to run.
func TestUseOfBoundedVolumeWithoutGuardIsRefused(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MustMount("db", "first")
	d.Profile.Failover.Auto = true
	if !r.Cache.Apply(d, 0) {
		t.Fatal("the record was not applied")
	}
	if _, err := r.Mount(t.Context(), "db", "second"); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("the second use: %v", err)
	}
	agenttest.Await(t, func() bool { return !r.Jobs.IsRunning("guard/" + d.ID.String()) })
	r.WantUses(d, "first")
	r.MustUnmount("db", "first")
}
