// Package keyring_test tests the keyring part of package operation. It is a folder of its own, so that it runs beside
// the other tests.
package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/test/require"
)

// growing is a pool whose datasets have a size. It records its calls, and whether the source is frozen during each of
// them.
type growing struct {
	backends.Pool
	still func() bool
	did   []string
	sizes []dataset.Size
	has   dataset.Size // the size of the partial clone; 0: there is none
	none  bool         // the clone exists, without a size
	fails error
}

func (p *growing) note(what string, size dataset.Size) {
	if p.still() {
		what += " while writers wait"
	}
	p.did, p.sizes = append(p.did, what), append(p.sizes, size)
}

func (p *growing) Clone(ctx context.Context, d dataset.Dataset, _ dataset.Source, _ backends.Progress) (dataset.Size, error) {
	if _, err := backends.Frozen(ctx, func() error { p.note("clone", d.Size); return nil }); err != nil {
		return 0, err
	}
	if p.has == 0 && !p.none {
		p.has = max(d.Size, 1<<30)
	}
	return p.has, nil
}

func (p *growing) Resize(_ context.Context, _ uuid.UUID, size dataset.Size, _ *os.File) error {
	p.note("grow", size)
	if p.fails == nil {
		p.has = size
	}
	return p.fails
}

func (p *growing) Info() backends.Info {
	is := p.Pool.Info()
	is.Capabilities.EnforcesSize, is.Capabilities.OwnFilesystem = true, true
	return is
}

func (p *growing) Grow(context.Context, uuid.UUID, *os.File) error { return nil }

func (p *growing) Delete(context.Context, uuid.UUID) error {
	p.note("delete", 0)
	return nil
}

// A clone, encrypted or not, is enlarged after the source is thawed.
func TestCloneGrowsAfterThaw(t *testing.T) {
	k := newKeyRig(t)
	src := dataset.Dataset{ID: uuid.New(), Volume: "db", Home: k.Node(), Size: 1 << 30, Encryption: &dataset.Encryption{ID: uuid.New()}}
	k.Cache.Apply(src, 1)
	defer k.Cache.Remove(src.ID)
	root := k.MountExt4(src.ID)
	still := func() bool {
		again := fsctl.Freeze(root)
		if again == nil {
			_ = fsctl.Thaw(root)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		unlock, err := k.Locks.Lock(ctx, src.ID, "test")
		if err == nil {
			unlock()
		}
		if frozen := errors.Is(again, fsctl.ErrFrozen); frozen != (err != nil) {
			t.Errorf("frozen %v, locked: %v", frozen, err)
		}
		return err != nil
	}
	for _, c := range []struct {
		has   dataset.Size // from an attempt that was interrupted before the source grew; -1: it had no size
		size  dataset.Size
		plain bool
		fails error
		did   []string
		sizes []dataset.Size
	}{
		{0, 2 << 30, true, nil, []string{"clone while writers wait", "grow", "clone"}, []dataset.Size{0, 2 << 30, 2 << 30}},
		{0, 2 << 30, false, nil, []string{"clone while writers wait", "grow", "clone"}, []dataset.Size{0, 2 << 30, 2 << 30}},
		{0, 2 << 30, false, errors.New("full"), []string{"clone while writers wait", "grow", "delete"}, []dataset.Size{0, 2 << 30, 0}},
		{0, 0, false, nil, []string{"clone while writers wait"}, []dataset.Size{0}},
		// The pool refuses this.
		{0, 1 << 20, false, nil, []string{"clone while writers wait"}, []dataset.Size{1 << 20}},
		{1 << 29, 1 << 30, false, nil, []string{"clone while writers wait", "grow", "clone"}, []dataset.Size{1 << 30, 1 << 30, 1 << 30}},
		{1 << 28, 1 << 29, true, nil, []string{"clone while writers wait", "grow", "clone"}, []dataset.Size{1 << 29, 1 << 29, 1 << 29}},
		{-1, 1 << 29, true, nil, []string{"clone while writers wait", "grow", "clone"}, []dataset.Size{1 << 29, 1 << 29, 1 << 29}},
		{1 << 29, 1 << 30, true, nil, []string{"clone while writers wait", "grow", "clone"}, []dataset.Size{1 << 30, 1 << 30, 1 << 30}},
	} {
		p := &growing{Pool: k.Pool(), still: still, has: max(c.has, 0), none: c.has < 0, fails: c.fails}
		made := dataset.Dataset{ID: uuid.New(), Volume: "copy", Size: c.size, Encryption: src.Encryption}
		if c.plain {
			made.Encryption = nil
		}
		op := dataset.Operation{Volume: "copy", DatasetID: made.ID, DatasetRecord: &made, Source: &dataset.Source{Dataset: src.ID}}
		if err := k.MakeInPool(t.Context(), &host.Job{}, p, &op); !errors.Is(err, c.fails) {
			t.Fatal(err)
		}
		if !slices.Equal(p.did, c.did) || !slices.Equal(p.sizes, c.sizes) {
			t.Errorf("%+v: %q of %v", c, p.did, p.sizes)
		}
		want := max(c.size, 1<<30)
		if c.has != 0 { // whatever size the source has by now
			want = c.size
		}
		if c.fails == nil && made.Size != want {
			t.Errorf("it has %s on record, and not %s", made.Size, want)
		}
	}
}

// No key program runs while a source is frozen, also if an attempt that a crash interrupted is resumed.
func TestNoKeyProgramRunsWhileSourceIsFrozen(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@run")
	data := bytes.Clone(k.kind.key(d.ID))
	p, err := k.Control.Plan(t.Context(), k.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "db"}})
	require.NoError(t, err)
	for _, what := range []string{"first", "again"} {
		op := *p.Operation
		made := *op.DatasetRecord
		op.DatasetRecord = &made
		ctx, err := k.Keys.Seal(t.Context(), k.Pool(), &op)
		require.NoError(t, err)
		if _, err := k.Pool().Clone(ctx, made, *op.Source, nil); err != nil {
			t.Fatal(err)
		}
		k.asked()
		got, err := k.Keys.DataKey(ctx, made)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(k.program + ".asked"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the program was run: %v", what, err)
		}
		if got, err := k.Keys.DataKey(ctx, d); err != nil || !bytes.Equal(got, data) || len(k.asked()) != 1 {
			t.Errorf("%s: of another dataset nothing is at hand: %v", what, err)
		}
	}
}

// A rekey that waits for the dataset's lock while the volume is deleted changes no key in the trash, and fails.
func TestRekeyOfVolumeDeletedMeanwhile(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	unlock, err := k.Locks.Lock(t.Context(), d.ID, "test")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- k.rekey("db", "") }()
	agenttest.Await(t, func() bool { return k.Locks.Users(d.ID) == 2 })
	deleted, _ := k.Cache.Dataset(d.ID)
	deleted.State, deleted.Trash = dataset.StateTrashed, &dataset.Trash{At: d.Created}
	k.Cache.Apply(deleted, 0)
	unlock()
	if err := <-ended; !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "deleted meanwhile") {
		t.Errorf("%v", err)
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
