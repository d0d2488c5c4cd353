package operation_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// beside starts the agent of another node with the same control, with a pool called other.
func beside(r *agenttest.Host) *agenttest.Host {
	r.T.Helper()
	return agenttest.New(r.T, func(cfg *agent.Config) {
		cfg.Control, cfg.NodeName = r.Link, "host-b"
		cfg.Pools = []pool.Config{{Name: "other", Backend: "dir", Path: filepath.Join(cfg.Root, "pool")}}
	})
}

// TestCreateOnChosenNode: the requesting agent waits for the other node. Any number of concurrent Creates on both
// nodes make one dataset, and all succeed (I5).
func TestCreateOnChosenNode(t *testing.T) {
	a := agenttest.New(t)
	b := beside(a)
	var all sync.WaitGroup
	for i := range 12 {
		asked := []*agenttest.Host{a, b}[i%2]
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
	for _, r := range []*agenttest.Host{a, b} {
		got, err := r.Get(t.Context(), "db@bronze")
		if err != nil || got.Spelling != "db@bronze" {
			t.Errorf("%s: %+v, %v", r.NodeName, got, err)
		}
	}
	if used := a.Spellings.Used(v.Dataset); len(used) != 1 || used[0] != "db@bronze" {
		t.Errorf("the asking engine's spelling is not known: %q", used)
	}
	if n := len(b.ListPool("datasets")); n != 1 {
		t.Errorf("%d datasets in the pool", n)
	}
	if err := a.Create(t.Context(), "db@silver", map[string]string{"pool": "other"}); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("a create of the existing volume with another profile: %v", err)
	}
}

// TestRepeatedCreateResumesOnOtherNode: the error names the operation and the node for which the caller waits. A
// repeated request waits for the same operation (I8).
func TestRepeatedCreateResumesOnOtherNode(t *testing.T) {
	a := agenttest.New(t)
	b := beside(a)
	opts := map[string]string{"pool": "other"}
	cfg := b.Config
	b.Stop()
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan error, 1)
		go func() { asked <- a.Create(ctx, "db", opts) }()
		awaitRunning(a, asked)
		cancel()
		err := <-asked
		if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "waits for node "+b.NodeID.String()[:8]) || !strings.Contains(err.Error(), "operation inspect --wait") {
			t.Fatal(err)
		}
	}
	list, err := a.Control.Operations(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Node != b.NodeID {
		t.Fatalf("%+v, %v", list.Items, err)
	}
	b.StartWith(cfg)
	if err := a.Create(t.Context(), "db", opts); err != nil {
		t.Fatal(err)
	}
	if v, err := a.Control.Volume(t.Context(), "db"); err != nil || v.Home != b.NodeID {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestErrorOfOtherNodeIsReported: the error contains the reason and the node.
func TestErrorOfOtherNodeIsReported(t *testing.T) {
	a := agenttest.New(t)
	b := beside(a)
	cfg := b.Config
	b.Stop()
	asked := make(chan error, 1)
	go func() { asked <- a.Create(t.Context(), "db", map[string]string{"pool": "other"}) }()
	op := awaitRunning(a, asked)
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
	b.StartWith(cfg)
}

// awaitRunning returns the operation of a request once its agent works on it.
func awaitRunning(r *agenttest.Host, asked chan error) dataset.Operation {
	r.T.Helper()
	for {
		if running := r.Jobs.Running(); len(running) > 0 {
			return running[0]
		}
		select {
		case err := <-asked:
			r.T.Fatalf("it has ended, before it was seen: %v", err)
		default:
			yield(r.T)
		}
	}
}

// yield lets other goroutines run.
func yield(t *testing.T) {
	t.Helper()
	if t.Context().Err() != nil {
		t.Fatal("it did not come")
	}
	runtime.Gosched()
}
