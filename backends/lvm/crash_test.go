//go:build lab

package lvm

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
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
