//go:build lab

package lvm

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// cast is who plays in a scenario: a dataset that holds "new", its snapshot that holds
// "old", and what is to be made.
type cast struct {
	ds, other      dataset.Dataset
	snapshot, keep dataset.Snapshot
}

func (b *bench) stage() cast {
	b.Helper()
	c := cast{ds: b.create(little), other: b.record(more)}
	c.snapshot = dataset.Snapshot{ID: uuid.New(), Dataset: c.ds.ID}
	c.keep = dataset.Snapshot{ID: uuid.New(), Dataset: c.ds.ID}
	b.write(c.ds.ID, "old")
	b.must(b.Snapshot(b.Context(), c.snapshot, nil))
	b.write(c.ds.ID, "new")
	return c
}

func (b *bench) untouched(c cast) {
	b.Helper()
	if got := b.read(c.ds.ID); got != "new" {
		b.Errorf("the head holds %q", got)
	}
	b.snapshotHolds(c.ds.ID, c.snapshot.ID, "old")
}

type scenario struct {
	name  string
	do    func(ctx context.Context, p backends.Pool, c cast) error
	check func(b *bench, c cast, done bool)
}

// made checks what a create or a clone is to make, with its content; the rest is untouched.
func made(content string) func(b *bench, c cast, done bool) {
	return func(b *bench, c cast, done bool) {
		b.Helper()
		_, err := b.Stat(b.Context(), c.other.ID)
		switch {
		case err == nil:
			if got := b.read(c.other.ID); got != content {
				b.Errorf("it holds %q, want %q", got, content)
			}
			if !b.sizeIs(c.other.ID, more) {
				b.Error("it has another size")
			}
		case done || !errors.Is(err, dataset.ErrNotFound):
			b.Error(err)
		}
		b.untouched(c)
	}
}

func scenarios() []scenario {
	return []scenario{
		{"create", func(ctx context.Context, p backends.Pool, c cast) error {
			_, err := p.Create(ctx, c.other)
			return err
		}, made("")},
		{"clone", func(ctx context.Context, p backends.Pool, c cast) error {
			_, err := p.Clone(ctx, c.other, dataset.Source{Dataset: c.ds.ID, Snapshot: c.snapshot.ID}, nil)
			return err
		}, made("old")},
		{"clone of a head", func(ctx context.Context, p backends.Pool, c cast) error {
			_, err := p.Clone(ctx, c.other, dataset.Source{Dataset: c.ds.ID}, nil)
			return err
		}, made("new")},
		{"snapshot", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.Snapshot(ctx, c.keep, nil)
		}, func(b *bench, c cast, done bool) {
			b.untouched(c)
			if done || b.has(c.ds.ID, c.keep.ID) {
				b.snapshotHolds(c.ds.ID, c.keep.ID, "new")
			}
		}},
		{"delete snapshot", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.DeleteSnapshot(ctx, c.ds.ID, c.snapshot.ID)
		}, func(b *bench, c cast, done bool) {
			if b.has(c.ds.ID, c.snapshot.ID) {
				if done {
					b.Error("it is there still")
				}
				b.untouched(c)
				return
			}
			b.snapshotHolds(c.ds.ID, c.snapshot.ID, "absent")
		}},
		{"restore", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.Restore(ctx, c.ds.ID, c.snapshot.ID, c.keep, nil)
		}, func(b *bench, c cast, done bool) {
			if !b.sizeIs(c.ds.ID, little) {
				b.Error("it has another size")
			}
			switch got := b.read(c.ds.ID); {
			case got == "old":
				b.snapshotHolds(c.ds.ID, c.keep.ID, "new")
			case got != "new" || done:
				b.Errorf("the head holds %q", got)
			default:
				b.snapshotHolds(c.ds.ID, c.keep.ID, "absent")
			}
			b.snapshotHolds(c.ds.ID, c.snapshot.ID, "old")
		}},
		{"resize", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.(backends.Resizer).Resize(ctx, c.ds.ID, more, nil)
		}, func(b *bench, c cast, done bool) {
			if !b.sizeIs(c.ds.ID, more) && (done || !b.sizeIs(c.ds.ID, little)) {
				b.Error("it has another size")
			}
			b.untouched(c)
		}},
		{"delete", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.Delete(ctx, c.ds.ID)
		}, func(b *bench, c cast, done bool) {
			_, err := b.Stat(b.Context(), c.ds.ID)
			if err == nil && !done {
				b.untouched(c)
			} else if !errors.Is(err, dataset.ErrNotFound) {
				b.Errorf("it is there still: %v", err)
			}
		}},
	}
}

// C1: a crash at every step of every operation leaves the one or the other, and doing it
// again ends as if nothing had been; so does reaping before.
func TestC1CrashAtEveryStep(t *testing.T) {
	cutAtEveryStep(t, newBench(t, place(t, "lvm-first")), scenarios())
}

func cutAtEveryStep(t *testing.T, b *bench, all []scenario) {
	t.Helper()
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			b := *b
			b.T = t
			n := 0
			for at, cut := 0, true; cut; at++ {
				c := b.stage()
				if cut, _ = b.crashed(s, c, at); cut {
					n++
					if b.open(); at%2 == 0 {
						s.check(&b, c, false)
						b.settled()
					}
				}
				b.must(s.do(t.Context(), b.Pool, c))
				b.must(s.do(t.Context(), b.Pool, c))
				s.check(&b, c, true)
				b.must(b.Delete(t.Context(), c.ds.ID))
				b.must(b.Delete(t.Context(), c.other.ID))
				b.settled()
				if t.Failed() {
					t.Fatalf("it was cut at step %d", at)
				}
			}
			if n == 0 {
				t.Error("no steps")
			}
		})
	}
}

func (b *bench) crashed(s scenario, c cast, at int) (bool, error) {
	b.Helper()
	b.backend.step = func(step string) {
		if b.left == 0 {
			b.left = -1
			panic(crash{step})
		}
		b.left--
	}
	b.open()
	return b.cut(at, func() error { return s.do(b.Context(), b.Pool, c) })
}
