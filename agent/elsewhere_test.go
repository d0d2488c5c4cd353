package agent

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// beside starts the agent of another node, on the same control, whose pool is called
// other.
func (r *rig) beside() *rig {
	r.t.Helper()
	return newRig(r.t, func(cfg *Config) {
		cfg.Control, cfg.NodeName = r.link, "host-b"
		cfg.Pools = []pool.Config{{Name: "other", Backend: "dir", Path: filepath.Join(cfg.Root, "pool")}}
	})
}

// TestCreateIsDoneByTheNodeThatPlacementPicks: the asking agent waits for it, any number
// of Creates on both nodes at once make one dataset, and all succeed (I5).
func TestCreateIsDoneByTheNodeThatPlacementPicks(t *testing.T) {
	a := newRig(t)
	b := a.beside()
	var all sync.WaitGroup
	for i := range 12 {
		asked := []*rig{a, b}[i%2]
		all.Go(func() {
			if err := asked.Create(t.Context(), "db@bronze", map[string]string{"pool": "other"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	v, err := a.Control.Volume(t.Context(), "db")
	if err != nil || v.Home != b.NodeID {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, r := range []*rig{a, b} {
		got, err := r.Get(t.Context(), "db@bronze")
		if err != nil || got.Name != "db@bronze" {
			t.Errorf("%s: %+v, %v", r.NodeName, got, err)
		}
	}
	if used := a.spellings.Of(v.Dataset); len(used) != 1 || used[0] != "db@bronze" {
		t.Errorf("the asking engine's spelling is not known: %q", used)
	}
	if n := len(b.inPool("datasets")); n != 1 {
		t.Errorf("%d datasets in the pool", n)
	}
	if err := a.Create(t.Context(), "db@silver", map[string]string{"pool": "other"}); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("another profile for what is there: %v", err)
	}
}

// TestCreateElsewhereIsPickedUpAgain: the error names the operation and the node that is
// waited for; asking again waits for the same one (I8).
func TestCreateElsewhereIsPickedUpAgain(t *testing.T) {
	a := newRig(t)
	b := a.beside()
	opts := map[string]string{"pool": "other"}
	cfg := b.config
	b.close()
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan error, 1)
		go func() { asked <- a.Create(ctx, "db", opts) }()
		a.awaitRunning(asked)
		cancel()
		err := <-asked
		if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "waits for node "+b.NodeID.String()[:8]) || !strings.Contains(err.Error(), "operation watch") {
			t.Fatal(err)
		}
	}
	list, err := a.Control.Operations(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Node != b.NodeID {
		t.Fatalf("%+v, %v", list.Items, err)
	}
	b.start(cfg)
	if err := a.Create(t.Context(), "db", opts); err != nil {
		t.Fatal(err)
	}
	if v, err := a.Control.Volume(t.Context(), "db"); err != nil || v.Home != b.NodeID {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestWhatAnotherNodeCouldNotMakeIsSaid: why, and by which node.
func TestWhatAnotherNodeCouldNotMakeIsSaid(t *testing.T) {
	a := newRig(t)
	b := a.beside()
	cfg := b.config
	b.close()
	asked := make(chan error, 1)
	go func() { asked <- a.Create(t.Context(), "db", map[string]string{"pool": "other"}) }()
	op := a.awaitRunning(asked)
	if _, err := a.Control.CancelOperation(t.Context(), op.ID.String()); err != nil {
		t.Fatal(err)
	}
	err := <-asked
	if !errors.Is(err, dataset.ErrCancelled) || !strings.Contains(err.Error(), "node "+b.NodeID.String()[:8]+": cancelled by request") {
		t.Errorf("%v", err)
	}
	if _, err := a.Control.Volume(t.Context(), "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
	b.start(cfg)
}

// awaitRunning returns the operation of a request, once its agent is at it.
func (r *rig) awaitRunning(asked chan error) dataset.Operation {
	r.t.Helper()
	for {
		if running := r.Jobs.Running(); len(running) > 0 {
			return running[0]
		}
		select {
		case err := <-asked:
			r.t.Fatalf("it has ended, before it was seen: %v", err)
		default:
			yield(r.t)
		}
	}
}

// yield lets others run.
func yield(t *testing.T) {
	t.Helper()
	if t.Context().Err() != nil {
		t.Fatal("it did not come")
	}
	runtime.Gosched()
}
