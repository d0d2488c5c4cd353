package move

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// picky is a pool that sends and receives only what a test allows.
type picky struct {
	backends.Copier
	backends.Pool
	refuse func(snapshot uuid.UUID) error
}

func (p picky) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer, progress backends.Progress) (backends.Stream, error) {
	if err := p.refuse(src.Snapshot); err != nil {
		return backends.Stream{}, err
	}
	return p.Copier.Send(ctx, src, base, from, w, progress)
}

func (p picky) Receive(ctx context.Context, d backends.Delivery, r io.Reader, progress backends.Progress) (backends.Stream, error) {
	if err := p.refuse(d.Snapshot.ID); err != nil {
		return backends.Stream{}, err
	}
	return p.Copier.Receive(ctx, d, r, progress)
}

// The bases of other copies, and the snapshots that all replicas have, are transferred too if they are requested. If
// that fails, the transfer still succeeds.
func TestBasesComeAlong(t *testing.T) {
	for name, ask := range map[string]func(*Pull){
		"bases":  func(p *Pull) { p.Bases = true },
		"shared": func(p *Pull) { p.Shared = true },
	} {
		t.Run(name, func(t *testing.T) { basesComeAlong(t, ask) })
	}
}

func basesComeAlong(t *testing.T, ask func(*Pull)) {
	quiet(t)
	a := newNode(t, "xfs", disk)
	whole := a.pool
	d := a.create(small)
	a.write(d.ID, "one", treetest.Bytes(1, 2<<20))
	base := a.take(d, dataset.SnapshotTransfer)
	a.take(d, dataset.SnapshotTransfer) // no copy is based on it
	a.write(d.ID, "two", treetest.Bytes(2, 1<<20))
	want := a.take(d, dataset.SnapshotTransfer)
	a.bases = []uuid.UUID{base.ID}
	of := func(s dataset.Snapshot, err error) func(*node, uuid.UUID) error {
		return func(_ *node, id uuid.UUID) error {
			if id != s.ID {
				return nil
			}
			return err
		}
	}
	noSpace := dataset.Errorf(dataset.ErrNoSpace, "full")
	for name, c := range map[string]struct {
		asked        bool
		sends, takes func(*node, uuid.UUID) error
		comes        bool
		fails        error
	}{
		"asked for":               {asked: true, comes: true},
		"not asked for":           {},
		"its home cannot send it": {asked: true, sends: of(base, dataset.Errorf(dataset.ErrCorrupt, "bad block"))},
		"its home has it no more": {asked: true, sends: of(base, dataset.Errorf(dataset.ErrNotFound, "gone"))},
		"there is no room for it": {asked: true, takes: of(base, noSpace)},
		"there is no room for all": {asked: true, takes: func(b *node, id uuid.UUID) error {
			if id == want.ID && b.snapshots(d.ID)[base.ID] {
				return noSpace
			}
			return nil
		}},
		"there is no room without it":    {asked: true, takes: of(want, noSpace), fails: dataset.ErrNoSpace},
		"its home cannot send the other": {asked: true, comes: true, sends: of(want, dataset.Errorf(dataset.ErrCorrupt, "bad block")), fails: dataset.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := newNode(t, "xfs", disk)
			pick := func(pool backends.Pool, refuse func(*node, uuid.UUID) error) backends.Pool {
				if refuse == nil {
					return pool
				}
				return picky{pool.(backends.Copier), pool, func(id uuid.UUID) error { return refuse(b, id) }}
			}
			a.pool = pick(whole, c.sends)
			p := Pull{Peer: a.http.URL, Dataset: d, Into: pick(b.pool, c.takes), Want: want.ID}
			if c.asked {
				ask(&p)
			}
			_, err := b.client.Pull(t.Context(), p)
			if !errors.Is(err, c.fails) {
				t.Errorf("ended with %v", err)
			}
			got := b.snapshots(d.ID)
			if got[want.ID] != (c.fails == nil) || got[base.ID] != c.comes || len(got) > 2 {
				t.Errorf("it has %v", got)
			}
		})
	}
}

// A partly transferred earlier snapshot is completed first, and the wanted one is sent as a difference to it. So a
// node that restarts during a large transfer, and asks for a newer snapshot, does not send the bytes again. A
// snapshot that the home no longer has is not requested.
func TestBegunIsEnded(t *testing.T) {
	for name, gone := range map[string]bool{"there still": false, "gone": true} {
		t.Run(name, func(t *testing.T) {
			quiet(t)
			a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
			d := a.create(small)
			const whole, came = 5 << 20, 4 << 20
			a.write(d.ID, "one", treetest.Bytes(1, whole))
			begun := a.take(d, dataset.SnapshotTransfer)
			b.client.Tries = 1
			b.wire.set(func(body io.ReadCloser) io.ReadCloser { return &cutter{body, came} })
			if _, err := b.pull(a, d, begun.ID); !errors.Is(err, dataset.ErrOffline) {
				t.Fatalf("cut: %v", err)
			}
			b.wire.set(nil)
			a.write(d.ID, "two", []byte("two"))
			want := a.take(d, dataset.SnapshotTransfer)
			if gone {
				must(t, a.pool.DeleteSnapshot(t.Context(), d.ID, begun.ID))
			}
			got, err := b.pull(a, d, want.ID)
			if err != nil || gone != (got.ReceivedBytes > whole) || b.snapshots(d.ID)[begun.ID] == gone {
				t.Errorf("%d bytes of %d came, of which %d were there: %v", got.ReceivedBytes, whole, came, err)
			}
			b.promote(d, want.ID)
			b.holds(d.ID, "two", []byte("two"))
		})
	}
}
