// Package livestate_test tests the livestate part of package controlsync. It is a folder of its own, so that it runs beside the other tests.
package livestate_test

import (
	"context"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestMain checks that the package leaves nothing on the host.
func TestMain(m *testing.M) { agenttest.Main(m) }

// TestUsesBeforeTheNextHeartbeat looks at a volume right after each mount and unmount. The volume and both lists show
// the present uses, although the heartbeat that reports them is sent later. A volume of another node is shown as
// control knows it.
func TestUsesBeforeTheNextHeartbeat(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("db", nil)
	f.A.Reporter.ReportAll(t.Context())
	here, there := f.A.LiveState(f.A.Control), f.B.LiveState(f.B.Control)
	shown := func(by api.Service) (all []*dataset.DatasetStatus) {
		t.Helper()
		v, err := by.Volume(t.Context(), "db")
		require.NoError(t, err)
		list, err := by.Volumes(t.Context(), api.Page{})
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		summaries, err := by.VolumeSummaries(t.Context(), api.Page{})
		if err != nil || len(summaries.Items) != 1 {
			t.Fatalf("%+v, %v", summaries, err)
		}
		return append(all, v.Status, list.Items[0].Status, summaries.Items[0].Status)
	}
	check := func(uses int, mounted bool) {
		t.Helper()
		path := ""
		if mounted {
			path = f.A.MountPath(d.ID)
		}
		for i, st := range shown(here) {
			if st == nil || len(st.Mounts) != uses || st.Mounted != mounted || st.MountPath != path {
				t.Errorf("answer %d: %+v, want %d uses, mounted %t", i, st, uses, mounted)
			}
		}
	}
	for _, reported := range []bool{false, true} {
		check(0, false)
		f.A.MustMount("db", "one")
		check(1, true)
		f.A.MustMount("db", "two")
		check(2, true)
		if reported {
			f.A.Reporter.ReportAll(t.Context())
		}
		f.A.MustUnmount("db", "one")
		check(1, true)
		f.A.MustUnmount("db", "two")
		check(0, false)
	}
	for i, st := range shown(there) {
		if st == nil {
			t.Errorf("answer %d on the other node: no status", i)
		}
	}
}

// A pool that fills is shown with its present space before the next heartbeat reports it, as doctor shows it. The pool
// of another node is shown as it was reported.
func TestSpaceBeforeTheNextHeartbeat(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	f.A.Reporter.ReportAll(t.Context())
	f.B.Reporter.ReportAll(t.Context())
	reported, err := f.A.Control.Pools(t.Context())
	require.NoError(t, err)
	control := fixedPools{f.A.Control, func() (list []api.Pool) {
		for _, p := range reported {
			st := *p.Status
			st.Size, st.Free = 100, 50
			p.Status = &st
			list = append(list, p)
		}
		return list
	}}
	shown, err := f.A.LiveState(control).Pools(t.Context())
	if err != nil || len(shown) < 2 {
		t.Fatalf("%+v, %v", shown, err)
	}
	for _, p := range shown {
		if own := p.NodeName == f.A.NodeName; own == (p.Status.Size == 100) {
			t.Errorf("pool %s of %s: %+v", p.Name, p.NodeName, p.Status)
		}
	}
	offline := fixedPools{f.A.Control, func() []api.Pool {
		list := control.list()
		for i := range list {
			list[i].Status.Online = false
		}
		return list
	}}
	shown, err = f.A.LiveState(offline).Pools(t.Context())
	require.NoError(t, err)
	for _, p := range shown {
		if p.Status.Online || p.Status.Size != 100 {
			t.Errorf("pool %s that was reported as offline: %+v", p.Name, p.Status)
		}
	}
}

// fixedPools is a control whose answer about pools is fixed.
type fixedPools struct {
	api.Service
	list func() []api.Pool
}

func (c fixedPools) Pools(context.Context) ([]api.Pool, error) { return c.list(), nil }
