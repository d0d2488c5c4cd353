//go:build lab

package lvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// The cases of the suite that concern the differences of a sandbox pass in a sandbox of a pool. The outer pool shows
// nothing of them, during the cases and afterwards.
func TestSuiteInASandbox(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	d := b.create(little)
	b.write(d.ID, "content")
	home, err := b.backend.SeparateFolder(b.cfg.Path)
	b.must(err)
	c, err := trialdir.Make(home, b.ID(), Name)
	b.must(err)
	kind, n := New(&run.System{}), 0
	for _, one := range backendtest.Cases() {
		switch one.Name {
		case "PoolIsMadeOnce", "PoolRefusesNonEmptyPlace", "AbsentPoolIsOffline", "DatasetLifeCycle",
			"ClonesAndDeletedSources",
			"ForeignFilesAreListedAndKept", "ReapDropsSelectedDatasets", "SymlinksInThePoolAreNotFollowed":
		default:
			continue
		}
		n++
		dir := filepath.Join(c.Path, one.Name)
		b.must(os.Mkdir(dir, 0o700))
		t.Run(one.Name, func(t *testing.T) {
			pools := 0
			one.Run(t, func() (backends.Kind, backends.Config) {
				pools++
				b.must(os.Mkdir(filepath.Join(dir, fmt.Sprint(pools)), 0o700))
				return kind, backends.Config{Name: "inner", Path: filepath.Join(dir, fmt.Sprint(pools), "pool")}
			})
		})
		b.must(trialdir.Clear(t.Context(), []backends.Kind{kind}, dir))
		b.settled()
	}
	if n != 8 {
		t.Errorf("%d cases", n)
	}
	b.must(c.Remove(t.Context(), backends.NewRegistry(kind)))
	b.must(c.Close())
	b.settled()
	if got := b.read(d.ID); got != "content" {
		t.Errorf("it holds %q", got)
	}
}

// For the outer pool, the volumes of a pool in a sandbox are not foreign while the sandbox exists, and they are removed
// with it. For the pool in the sandbox, the volumes of the outer pool are never foreign.
func TestSandboxThatWasLeft(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	d := b.create(little)
	b.write(d.ID, "content")
	home, err := b.backend.SeparateFolder(b.cfg.Path)
	b.must(err)
	c, err := trialdir.Make(home, b.ID(), Name)
	b.must(err)
	inner, err := b.backend.Open(t.Context(), backends.Config{
		ID:   uuid.New(),
		Name: "inner",
		Path: c.Path + "/pool",
		Make: true,
	})
	b.must(err)
	e := dataset.Dataset{ID: uuid.New(), Size: little}
	_, err = inner.Create(t.Context(), e)
	b.must(err)
	b.must(inner.Snapshot(t.Context(), dataset.Snapshot{ID: uuid.New(), Dataset: e.ID}, nil))
	for what, p := range map[string]backends.Pool{"the pool": b.Pool, "the sandbox": inner} {
		list, err := p.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Problem != "" {
			t.Errorf("%s lists %+v, %v", what, list, err)
		}
	}
	if n := len(b.volumes()); n != 3 {
		t.Errorf("there are %d volumes", n)
	}
	b.must(inner.Close())
	b.must(c.Close()) // as if the process were killed
	left, err := trialdir.Find(home)
	if err != nil || len(left) != 1 || left[0].Foreign != "" {
		t.Fatalf("%+v, %v", left, err)
	}
	b.must(trialdir.Remove(t.Context(), backends.NewRegistry(New(&run.System{})), left[0]))
	b.settled()
	if got := b.read(d.ID); got != "content" {
		t.Errorf("it holds %q", got)
	}
	outside := backends.Config{ID: uuid.New(), Name: "inner", Path: home + "/datasets/pool", Make: true}
	if _, err := b.backend.Open(t.Context(), outside); err == nil ||
		!strings.Contains(err.Error(), "is not the path of a volume group") {
		t.Errorf("outside of a sandbox: %v", err)
	}
}
