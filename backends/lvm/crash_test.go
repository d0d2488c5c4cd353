//go:build lab

package lvm

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// C1: a crash at every step of every operation leaves the state before or after it.
func TestC1CrashAtEveryStep(t *testing.T) { crashAtEveryStep(t, nil) }

// C1 of encrypted datasets, which leave no mapping either.
func TestC1Encrypted(t *testing.T) { crashAtEveryStep(t, backendtest.NewKeys()) }

func crashAtEveryStep(t *testing.T, keys *backendtest.Keys) {
	t.Helper()
	var b bench
	at := func(p backends.Pool) *bench { return &bench{T: b.T, Pool: p, cfg: b.cfg} }
	crashing.Run(t, "thin", func(t *testing.T) (backends.Kind, backends.Config) {
		b.T, b.cfg = t, place(t, "lvm-first")
		if keys != nil {
			b.cfg.Keys = keys
		}
		return New(&run.System{}), b.cfg
	}, backendtest.Crashes{
		Crash: crashing.Stopped(func(step func(string)) backends.Kind {
			b := New(&run.System{})
			b.step = step
			return b
		}),
		Sized: func(t backendtest.T, p backends.Pool, id uuid.UUID, _ bool, sizes ...dataset.Size) {
			t.Helper()
			for _, size := range sizes {
				if at(p).sizeIs(id, size) {
					return
				}
			}
			t.Errorf("it has none of the sizes %v", sizes)
		},
		CheckReaped: func(_ backendtest.T, p backends.Pool) {
			at(p).settled()
			if keys != nil {
				at(p).nothingOpen("after reaping")
			}
		},
		// Commands take long there. The other operations have the same steps.
		Only: []string{
			"create", "clone", "clone a larger one", "snapshot", "delete a snapshot", "restore", "resize", "delete",
		},
		Alternate: true,
	})
}

func TestSuite(t *testing.T) { suite(t, "thin", nil) }

// TestSuiteEncrypted runs the suite with every dataset encrypted.
func TestSuiteEncrypted(t *testing.T) { suite(t, "luks", backendtest.NewKeys()) }

// I3: an operation of which any system call fails damages nothing in the pool. Only the calls for the records fail,
// because each command of LVM takes about a second.
func TestI3FailingCalls(t *testing.T) {
	crashing.FailingCalls(t, "thin", func(t *testing.T) (backends.Kind, backends.Config) {
		return New(&run.System{}), place(t, "lvm-first")
	})
}

func suite(t *testing.T, name string, keys backends.Keys) {
	t.Helper()
	taken := map[string]bool{}
	backendtest.Run(t, name, func(t *testing.T) (backends.Kind, backends.Config) {
		disk := "lvm-first"
		if taken[t.Name()] {
			disk = "lvm-second" // a case with two pools
		}
		taken[t.Name()] = true
		cfg := place(t, disk)
		cfg.Keys = keys
		return New(&run.System{}), cfg
	})
}

// Clear leaves the devices free, or leaves a volume group that existed before unchanged, at whichever step an earlier
// Clear was interrupted. A pool with a volume stays as it is.
func TestCleared(t *testing.T) {
	cfg := place(t, "lvm-first")
	vg, device := filepath.Base(cfg.Path), cfg.Devices[0]
	cfg.ID = uuid.New()
	given := cfg
	given.Devices = nil
	for _, cfg := range []backends.Config{cfg, given} {
		if cfg.Devices == nil {
			lvmDo(t, "vgcreate", vg, device)
		}
		cuts := []string{"", "lvm.clear." + poolName, "lvm.clear." + recordsName}
		if cfg.Devices == nil && !long.Enabled() {
			cuts = cuts[2:] // the same steps, and one more for a group that was made for the pool
		}
		for _, cut := range cuts {
			b := New(&run.System{})
			open := func() backends.Pool {
				p, err := b.Open(t.Context(), cfg)
				if err != nil {
					t.Fatal(cut, err)
				}
				return p
			}
			p := open()
			d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB}
			if _, err := p.Create(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if _, err := p.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
				t.Fatalf("with a volume: %v", err)
			}
			require.NoError(t, p.Delete(t.Context(), d.ID))
			tag := poolTag + p.ID().String()
			lvmDo(t, "vgchange", "--deltag", tag, vg)
			if _, err := p.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrOffline) {
				t.Fatalf("in a group that is no pool any more: %v", err)
			}
			lvmDo(t, "vgchange", "--addtag", tag, vg)
			if cut != "" {
				p.(*Pool).step = func(step string) {
					if step == cut {
						panic(crash{step})
					}
				}
				func() {
					defer func() { _ = recover() }()
					_, err := p.(backends.Clearer).Clear(t.Context())
					t.Errorf("was not cut short at %s: %v", cut, err)
				}()
				p = open()
			}
			says, err := p.(backends.Clearer).Clear(t.Context())
			if err != nil || strings.Contains(says, "blkdiscard -z "+device) != (cfg.Devices != nil) {
				t.Fatalf("after %q: %q, %v", cut, says, err)
			}
			if cfg.Devices != nil {
				do(t, "blkdiscard", "-z", device)
				assert.NoErrorf(t, disk.CheckVacant(device), "after %q", cut)
			} else if left := strings.TrimSpace(
				lvmDo(t, "vgs", "--noheadings", "--options", "vg_name,vg_tags,lv_count",
					vg)); strings.Join(strings.Fields(left), " ") != vg+" 0" {
				t.Errorf("after %q the group is %q", cut, left)
			}
		}
	}
}
