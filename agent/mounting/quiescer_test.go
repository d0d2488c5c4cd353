package mounting_test

import (
	"errors"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// fakePool is a pool whose datasets have a filesystem. Its copies are exact by themselves if exact is set.
type fakePool struct {
	backends.Pool
	exact bool
}

func (p fakePool) Info() backends.Info {
	return backends.Info{Exact: p.exact, Capabilities: dataset.Capabilities{OwnFilesystem: true}}
}

// isFrozen reports whether a filesystem is frozen. If it was not, it is frozen for a moment.
func isFrozen(root *os.File) bool {
	if fsctl.Freeze(root) == nil {
		_ = fsctl.Thaw(root)
		return false
	}
	return true
}

// A mounted volume is frozen while it is copied, and the copy is exact. The agent does not freeze if the backend
// freezes: a filesystem cannot be frozen twice.
func TestFreezeUnlessBackendFreezes(t *testing.T) {
	r := agenttest.New(t)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	root := r.MountExt4(d.ID)
	for _, c := range []struct {
		quiesce       dataset.Quiesce
		byPool        bool
		sealed        *dataset.Encryption // a backend does not see the filesystem of an encrypted volume
		frozen, exact bool
	}{
		{dataset.QuiesceFreeze, false, nil, true, true}, {dataset.QuiesceFlush, false, nil, false, false},
		{dataset.QuiesceFreeze, true, nil, false, true}, {dataset.QuiesceFlush, true, nil, false, true},
		{dataset.QuiesceFreeze, true, &dataset.Encryption{}, true, true},
		{dataset.QuiesceFlush, true, &dataset.Encryption{}, false, false},
	} {
		d.Profile.Quiesce, d.Encryption = c.quiesce, c.sealed
		in, end, err := r.Quiescer.Prepare(t.Context(), fakePool{exact: c.byPool}, d)
		require.NoError(t, err)
		frozen := false
		exact, err := backends.Frozen(in, func() error { frozen = isFrozen(root); return nil })
		if err != nil || frozen != c.frozen || exact != c.exact || end() != c.exact {
			t.Errorf("%+v: frozen %v, exact %v, %v", c, frozen, exact, err)
		}
		if isFrozen(root) {
			t.Errorf("%+v: it is still frozen", c)
		}
	}
}

// A snapshot or a clone that fails on a frozen volume thaws it: its writers continue.
func TestFailedSnapshotThawsVolume(t *testing.T) {
	r := agenttest.New(t)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	root := r.MountExt4(d.ID)
	in, end, err := r.Quiescer.Prepare(t.Context(), fakePool{}, d)
	require.NoError(t, err)
	broken := errors.New("the disk does not take it")
	if exact, err := backends.Frozen(in, func() error { return broken }); !errors.Is(err, broken) || exact || end() {
		t.Errorf("exact %v, %v", exact, err)
	}
	if isFrozen(root) {
		t.Error("the volume is still frozen")
	}
}

// A volume that cannot be frozen is copied nevertheless, and the copy is not exact: another program has frozen it, or no
// child can be started. The freeze of another program stays.
func TestVolumeThatCannotBeFrozenIsCopied(t *testing.T) {
	r := agenttest.New(t)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	root := r.MountExt4(d.ID)
	copied := func(q *mounting.Quiescer) {
		t.Helper()
		in, end, err := q.Prepare(t.Context(), fakePool{}, d)
		require.NoError(t, err)
		copied := false
		if _, err := backends.Frozen(in, func() error { copied = true; return nil }); err != nil || !copied || end() {
			t.Errorf("copied %v, %v", copied, err)
		}
	}
	without := *r.Mounts
	without.Freezer = []string{"/nowhere"}
	copied(&mounting.Quiescer{Mounts: &without})
	require.NoError(t, fsctl.Freeze(root))
	copied(r.Mounts.Quiescer)
	assert.NoErrorf(t, fsctl.Thaw(root), "the freeze of another program is gone")
}
