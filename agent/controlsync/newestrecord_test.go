package controlsync_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
)

// The newer one of the record beside the data and the agent's copy of it describes the dataset: a power cut can undo
// the one, a crash the other.
func TestNewestRecordWinsAfterCrashOrPowerCut(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	at := r.Cache.Index(d.ID)
	if at == 0 {
		t.Fatal("the copy has no index")
	}
	p, _ := r.Pools.ByName("default")
	entry := func() backends.Entry {
		t.Helper()
		entries, err := p.Storage.List(t.Context())
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		return entries[0]
	}
	for _, c := range []struct {
		what    string
		written int64 // relative to the agent's copy
		epoch   int64
		record  bool
	}{
		{"of the same transaction", 0, 0, false},
		{"older", -1, 0, false},
		{"newer", 1, 0, true},
		{"older, of the epoch before", 1, -1, false},
		{"newer, of the next epoch", -1, 1, true},
	} {
		beside := d
		beside.Volume, beside.Epoch = "beside", uint64(int64(d.Epoch)+c.epoch)
		beside.Written = uint64(int64(at) + c.written)
		if err := p.Storage.WriteRecord(t.Context(), beside, true); err != nil {
			t.Fatal(err)
		}
		f, ok := r.Holdings.FoundDataset(entry(), false)
		if want := map[bool]string{true: "beside", false: "db"}[c.record]; !ok || f.Dataset.Volume != want {
			t.Errorf("a record that is %s: found as %s, not %s", c.what, f.Dataset.Volume, want)
		}
		r.Cache.ForgetIndexes()
		if f, _ := r.Holdings.FoundDataset(entry(), false); c.epoch >= 0 && f.Dataset.Volume != "beside" {
			t.Errorf("a record that is %s, beside a copy of no known transaction: found as %s", c.what, f.Dataset.Volume)
		}
		r.Cache.Apply(d, at)
	}
	r.WriteRecord(t.Context(), p.Storage, d)
	if got := entry().Record.Written; got != at {
		t.Errorf("written with index %d, want %d", got, at)
	}
}

// A rebuild gets the index beside the data: an agent whose database was lost or restored knows no index, or an older
// one. The recovery of a store does not: it compares indexes with those of the store.
func TestRebuildGetsTheIndexBesideTheData(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	p, _ := r.Pools.ByName("default")
	beside := d
	beside.Written = 1 << 40
	if err := p.Storage.WriteRecord(t.Context(), beside, true); err != nil {
		t.Fatal(err)
	}
	for _, known := range []bool{true, false} {
		if !known {
			r.Cache.ForgetIndexes()
		}
		found, err := r.Holdings.ListPool(t.Context(), p)
		if err != nil || len(found) != 1 {
			t.Fatalf("got %d datasets, error %v, want 1", len(found), err)
		}
		if got := found[0].Dataset.Written; got != beside.Written || (found[0].Index != 0) != known {
			t.Errorf("index known: %t: a rebuild gets index %d, written %d", known, found[0].Index, got)
		}
		h, err := r.Holdings.List(t.Context())
		if err != nil || len(h.Datasets) != 1 || h.Datasets[0].Dataset.Written != 0 {
			t.Errorf("index known: %t: a recovery gets %+v, error %v", known, h.Datasets, err)
		}
	}
}

// I3: the store and the agent's database were restored from a backup together, and the pool was not. The records beside
// the data show it: the store is inconsistent from the start, and the newer record stays, so that a rebuild finds it.
func TestI3NewerRecordBesideTheDataHaltsTheStore(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) { c.PeerHTTP = nil })
	d := r.NewVolume("db")
	p, _ := r.Pools.ByName("default")
	agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
	beside := d
	beside.Volume, beside.Written = "renamed", r.Cache.Index(d.ID)+1000
	if err := p.Storage.WriteRecord(t.Context(), beside, true); err != nil {
		t.Fatal(err)
	}
	r.Restart()
	if got := r.StoreFinding(); !strings.Contains(got, "older") {
		t.Errorf("doctor says %q", got)
	}
	r.WriteAllRecords()
	agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
	if e, err := r.Pool().Stat(t.Context(), d.ID); err != nil || e.Record == nil || e.Record.Volume != "renamed" {
		t.Fatalf("beside the data: %+v, %v", e.Record, err)
	}
	if out, err := r.RebuildStore(t.Context(), api.RebuildStore{}); err != nil || len(out) != 1 || out[0].Action != "restored" {
		t.Errorf("rebuilt: %+v, %v", out, err)
	}
	r.Restart()
	if got := r.StoreFinding(); got != "" {
		t.Errorf("after the rebuild, doctor says %q", got)
	}
	r.MustMount("renamed", "one")
	r.MustUnmount("renamed", "one")
}
