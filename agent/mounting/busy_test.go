package mounting_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
)

// A mount that the host kept busy when its last use ended is unmounted later, and that is reported. A request that
// was refused because of it is not repeated, and that is reported too.
func TestBusyUnmountIsRetried(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "id")
	shell, err := os.Open(r.MountPath(d.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	if err := r.Unmount(t.Context(), "db", "id"); !errors.Is(err, dataset.ErrInUse) || !strings.HasSuffix(err.Error(), "; retrying the unmount") {
		t.Errorf("unmount while the host is in it: %v", err)
	}
	if err := r.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) || !strings.HasSuffix(err.Error(), "; retrying the unmount; try again to remove it after that") {
		t.Errorf("remove while the host is in it: %v", err)
	}
	if err := shell.Close(); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(mounting.IdleLimit)
		mounted, err := host.IsMountPoint(r.MountPath(d.ID))
		return err == nil && !mounted
	})
	r.WantUses(d)
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}
