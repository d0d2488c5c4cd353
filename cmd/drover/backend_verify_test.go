package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/cmd/drover/internal/verification"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// proven returns the results of the suite for the pools of the test world: pool default has its declared capabilities,
// and pool plain lacks one of them.
func proven(_ context.Context, p api.Pool) (*verify.Report, error) {
	r := &verify.Report{Pool: p.Name, ID: p.ID, Node: p.NodeName, Backend: p.Backend, Path: p.Path, Note: p.Note, Seconds: 61.4}
	all := verify.Result{Name: "All"}
	for _, c := range backendtest.Cases() {
		all.Proves = append(all.Proves, c.Proves...)
	}
	for _, c := range []verify.Result{all, {Name: "GenerationIsRaised"}} {
		r.Add(verify.Event{Result: &c})
	}
	r.Add(verify.Event{Times: []backendtest.Time{{What: "create", Seconds: 0.00782}, {What: "send", Seconds: 0.25, Bytes: 64 << 20}}})
	can := p.Capabilities
	if p.Name == "plain" {
		can.Shrink = false
		r.Cases[1].Failures = []string{"generation 0, want 1", "generation 1, want 7"}
		r.Add(verify.Event{Unsupported: []string{"acls"}})
		r.Warnings = []string{verification.QuotaWarning("/srv/plain")}
	}
	return r, r.Judge(p.Capabilities, can)
}

// A pool that is on another host, not online or nearly full is refused before anything is created.
func TestVerifyIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	full := scratch.Mount(t, "ext4", 256<<20) // the disk is full, whatever its node reported
	good := api.Pool{
		Pool:   dataset.Pool{ID: uuid.New(), Name: "fast", Backend: "dir", Path: path},
		Status: &dataset.PoolStatus{Online: true, Size: 100 * dataset.GiB, Free: 50 * dataset.GiB}, NodeName: "host-b",
	}
	image := filepath.Join(t.TempDir(), "pool.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*api.Pool)
		kind   *dataset.Kind
		says   string
	}{
		"full": {func(p *api.Pool) { p.Status = &dataset.PoolStatus{Online: true, Size: dataset.GiB, Free: dataset.GiB} }, dataset.ErrNoSpace, "the suite needs 1GiB beside the reserve of 51.2MiB"},
		"full, of size": {func(p *api.Pool) {
			p.Capabilities.EnforcesSize, p.Status = true, &dataset.PoolStatus{Online: true, Size: 4 * dataset.GiB, Free: 4 * dataset.GiB}
		}, dataset.ErrNoSpace, "needs 4GiB"},
		"full by now": {func(p *api.Pool) {
			p.Status = &dataset.PoolStatus{Online: true, Size: 100 * dataset.GiB, Free: 50 * dataset.GiB}
			p.Path = full
		}, dataset.ErrNoSpace, "the suite needs 1GiB beside"},
		"offline": {func(p *api.Pool) { p.Status = &dataset.PoolStatus{Reason: "its disk is gone"} }, dataset.ErrOffline, ": it must " +
			"be online to be verified"},
		"elsewhere": {func(p *api.Pool) { p.Path += "-x" }, dataset.ErrOffline, "run this on that node"},
		"unmounted": {func(p *api.Pool) { p.Path = image }, dataset.ErrOffline, "in drover's mount namespace"},
		"another":   {func(*api.Pool) {}, dataset.ErrOffline, "run this on the node that has it, as root"},
	} {
		p := good
		c.change(&p)
		con := newConsole(theWorld())
		if _, err := verification.VerifyPool(t.Context(), con.App, p); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		if names, err := os.ReadDir(path); err != nil || len(names) > 0 {
			t.Errorf("%s: it made %v, %v", what, names, err)
		}
	}
}

// AwaitPool waits until the node of a new pool has reported the pool.
func TestVerifyWaitsForANewPool(t *testing.T) {
	w := theWorld()
	for _, tells := range []bool{true, false} {
		con := newConsole(w)
		status := w.pools[0].Status
		w.pools[0].Status = nil
		con.Sleep = func(context.Context, time.Duration) error {
			if con.slept++; tells && con.slept == 3 {
				w.pools[0].Status = status
			}
			return nil
		}
		p, err := verification.AwaitPool(t.Context(), con.App, w, w.pools[0].Name)
		if err != nil || (p.Status != nil) != tells || tells != (con.slept == 3) || con.slept == 0 {
			t.Errorf("tells %t: %+v, %v after %d looks", tells, p.Status, err, con.slept)
		}
		w.pools[0].Status = status
	}
}

// Every capability that the suite tests has a description, which pool inspect shows too.
func TestCapabilitiesHaveWords(t *testing.T) {
	r, err := proven(t.Context(), api.Pool{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Capabilities {
		if verification.VerdictOrder(v) < 0 {
			t.Errorf("%s has none", v.Name)
		}
	}
	if len(r.Capabilities) != len(pools.Abilities()) {
		t.Errorf("%d are proven, and %d have words", len(r.Capabilities), len(pools.Abilities()))
	}
}
