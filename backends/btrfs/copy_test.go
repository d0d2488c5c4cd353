package btrfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
)

// inner returns the Pool of a sized pool.
func inner(p backends.Pool) *Pool {
	if sized, ok := p.(*sizedPool); ok {
		return sized.Pool
	}
	return p.(*Pool)
}

func checkDemoted(f *fixture, c cast, done bool) {
	f.Helper()
	f.holds(c.Dataset.ID, c.Snapshot.ID, "old")
	e, err := f.Stat(f.Context(), c.Dataset.ID)
	f.must(err)
	switch {
	case e.Problem != "" || done && (e.State != backends.EntryCopy || e.Promoted):
		f.Errorf("it is %+v", e)
	case e.State == backends.EntryCopy && !e.Promoted:
		f.holds(c.Dataset.ID, c.Keep.ID, "new")
	case e.State == backends.EntryCopy:
		if got, err := os.ReadFile(e.Path + "/head/file"); err != nil || string(got) != "new" {
			f.Errorf("the copy's head holds %q, %v", got, err)
		}
	case e.State == backends.EntryReady:
		f.holds(c.Dataset.ID, uuid.Nil, "new") // do not read the head, because that would change its access time
	}
}

// readdressed returns the stream of a snapshot, as a difference to base, with the given header.
func readdressed(ctx context.Context, p *Pool, s dataset.Snapshot, base uuid.UUID, h stream.Header) ([]byte, error) {
	f, err := p.Shelf.FindDatasetOrCopy(s.Dataset)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tree, err := openSubvolume(f, shelf.TreeOf(s.ID))
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	var old *os.File
	if base != uuid.Nil {
		if old, err = openSubvolume(f, shelf.TreeOf(base)); err != nil {
			return nil, err
		}
		defer old.Close()
	}
	var out bytes.Buffer
	_, err = stream.Send(&out, h, 0, nil, func(w io.Writer) error { return btrfsctl.Send(ctx, tree, old, true, w) })
	return out.Bytes(), err
}

// A stream whose real base differs from the named one, or was changed, is refused and leaves nothing.
func TestStreamOnAWrongBase(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	p := inner(f.Pool)
	for _, name := range []string{"one", "two"} { // files that the other base lacks
		f.must(os.Mkdir(f.head(c.Dataset.ID)+"/"+name, 0o700))
	}
	f.must(f.Snapshot(t.Context(), c.Keep, nil))
	f.must(os.Rename(f.head(c.Dataset.ID)+"/one", f.head(c.Dataset.ID)+"/two/inside"))
	last := dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}
	f.must(f.Snapshot(t.Context(), last, nil))
	receive := func(s dataset.Snapshot, of, says uuid.UUID) error {
		stream, err := readdressed(t.Context(), p, s, of, stream.Header{
			Kind:     Name,
			Dataset:  c.Other.ID,
			Snapshot: s.ID,
			Base:     says,
		})
		f.must(err)
		s.Dataset = c.Other.ID
		_, err = p.Receive(t.Context(), backends.Delivery{Dataset: c.Other, Snapshot: s, Base: says},
			bytes.NewReader(stream), nil)
		return err
	}
	f.must(receive(c.Snapshot, uuid.Nil, uuid.Nil))
	f.fails(receive(last, c.Keep.ID, c.Snapshot.ID), dataset.ErrCorrupt, "")
	f.fails(receive(last, uuid.Nil, c.Snapshot.ID), dataset.ErrCorrupt, "")
	f.fails(receive(last, c.Keep.ID, uuid.Nil), dataset.ErrCorrupt, "")
	f.fails(receive(last, c.Keep.ID, c.Keep.ID), dataset.ErrNotFound, "")
	have, err := p.Received(t.Context(), c.Other.ID, last.ID)
	if err != nil || have != (backends.Received{}) {
		t.Errorf("%+v is kept, %v", have, err)
	}
	e, err := f.Stat(t.Context(), c.Other.ID)
	f.must(err)
	if len(e.Snapshots) != 1 || e.Problem != "" {
		t.Errorf("the copy is %+v", e)
	}
	f.must(receive(c.Keep, c.Snapshot.ID, c.Snapshot.ID))
	f.must(receive(last, c.Keep.ID, c.Keep.ID))
	f.holds(c.Other.ID, last.ID, "new")
	f.settled()
}

// If a snapshot does not fit beside its received stream, it is refused before it is made. The received stream stays,
// and the snapshot is made from it when there is room.
func TestNoRoomBesideTheStream(t *testing.T) {
	f := fixtureAt(t, scratch.Mount(t, "btrfs", 384<<20))
	d, other := dataset.Dataset{ID: uuid.New()}, dataset.Dataset{ID: uuid.New()}
	s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	_, err := f.Create(t.Context(), d)
	f.must(err)
	f.must(os.WriteFile(f.head(d.ID)+"/file", make([]byte, 90<<20), 0o600))
	f.must(f.Snapshot(t.Context(), s, nil))
	p := inner(f.Pool)
	stream, err := readdressed(t.Context(), p, s, uuid.Nil, stream.Header{Kind: Name, Dataset: other.ID, Snapshot: s.ID})
	f.must(err)
	ballast := f.disk + "/ballast"
	f.must(os.WriteFile(ballast, make([]byte, 60<<20), 0o600))
	scratch.Run(t, "sync", "-f", f.disk)
	there := s
	there.Dataset = other.ID
	receive := func(from int64) error {
		_, err := p.Receive(t.Context(), backends.Delivery{Dataset: other, Snapshot: there, From: from},
			bytes.NewReader(stream[from:]), nil)
		return err
	}
	before := f.Pool.Status(t.Context())
	f.fails(receive(0), dataset.ErrNoSpace, "")
	have, err := p.Received(t.Context(), other.ID, s.ID)
	f.must(err)
	if st := f.Pool.Status(t.Context()); have.Complete || have.Bytes < 89<<20 || st.Free < backends.Reserve(st.Size) {
		t.Errorf("of %d bytes %+v have come, and %s are free, of %s before", len(stream), have, st.Free.Human(),
			before.Free.Human())
	}
	f.must(os.Remove(ballast))
	scratch.Run(t, "sync", "-f", f.disk)
	f.must(receive(have.Bytes))
	if !f.has(other.ID, s.ID) {
		t.Error("it did not come")
	}
}

// A crash can interrupt a Supersede, which turns a head into a snapshot. Nothing that follows destroys that head:
// neither Reap, nor Demote to the previous snapshot, nor a Promote that replaces the head.
func TestSupersedeCutShortKeepsTheHead(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		f := newFixture(t)
		c := f.stage()
		cut := errors.New("cut short")
		f.backend.step = func(step string) {
			if step == "btrfs.demote.moved" {
				panic(cut)
			}
		}
		f.reopen()
		func() {
			defer func() { _ = recover() }()
			f.must(inner(f.Pool).Supersede(t.Context(), c.Dataset.ID, c.Keep))
			t.Error("it was not cut short")
		}()
		f.backend.step = func(string) {}
		f.reopen()
		f.settled()
		p := inner(f.Pool)
		if forgotten { // as an earlier Reap left it
			f.must(os.Remove(f.folder(c.Dataset.ID) + "/snapshot-" + c.Keep.ID.String() + ".json"))
			f.fails(p.Promote(t.Context(), c.Dataset.ID, c.Snapshot.ID), dataset.ErrConflict, "in no snapshot of it")
		}
		f.fails(p.Demote(t.Context(), c.Dataset.ID, c.Snapshot.ID), dataset.ErrConflict, "would be lost")
		checkDemoted(f, c, false)
		if forgotten {
			f.must(p.Supersede(t.Context(), c.Dataset.ID, c.Keep))
			checkDemoted(f, c, true)
		} else {
			f.must(p.Promote(t.Context(), c.Dataset.ID, c.Snapshot.ID))
			f.holds(c.Dataset.ID, c.Keep.ID, "new")
		}
		f.settled()
	}
}

// A stream can be applied only to the subvolume that was received from its base, wherever that is now. It is refused
// for all others, even if they have the same paths.
func TestStreamFitsItsBaseAlone(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	p := inner(f.Pool)
	f.must(f.Snapshot(t.Context(), c.Keep, nil))
	receive := func(from, to dataset.Dataset, s, base uuid.UUID) error {
		stream, err := readdressed(t.Context(), p, dataset.Snapshot{ID: s, Dataset: from.ID}, base, stream.Header{
			Kind:     Name,
			Dataset:  to.ID,
			Snapshot: s,
			Base:     base,
		})
		f.must(err)
		d := backends.Delivery{Dataset: to, Snapshot: dataset.Snapshot{ID: s, Dataset: to.ID}, Base: base}
		_, err = p.Receive(t.Context(), d, bytes.NewReader(stream), nil)
		return err
	}
	twin := dataset.Dataset{ID: uuid.New(), Size: little} // with the same paths, and a snapshot of the same name
	_, err := f.Create(t.Context(), twin)
	f.must(err)
	f.must(f.Pool.Commit(t.Context(), twin.ID))
	f.write(twin.ID, "old")
	f.must(f.Snapshot(t.Context(), dataset.Snapshot{ID: c.Snapshot.ID, Dataset: twin.ID}, nil))
	f.must(p.Supersede(t.Context(), twin.ID, dataset.Snapshot{ID: uuid.New(), Dataset: twin.ID}))
	err = receive(c.Dataset, twin, c.Keep.ID, c.Snapshot.ID)
	f.fails(err, dataset.ErrCorrupt, "and the base is")
	assert.ErrorIs(t, err, backends.ErrBaseDiffers)

	third := dataset.Dataset{ID: uuid.New()}
	f.must(receive(c.Dataset, c.Other, c.Snapshot.ID, uuid.Nil))
	f.must(receive(c.Dataset, c.Other, c.Keep.ID, c.Snapshot.ID))
	f.must(receive(c.Other, third, c.Snapshot.ID, uuid.Nil))
	f.must(receive(c.Dataset, third, c.Keep.ID, c.Snapshot.ID)) // from the pool in which its base was taken
	f.holds(third.ID, c.Keep.ID, "new")
	f.must(p.Supersede(t.Context(), c.Dataset.ID, dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}))
	f.must(f.DeleteSnapshot(t.Context(), c.Dataset.ID, c.Keep.ID))
	f.must(receive(third, c.Dataset, c.Keep.ID, c.Snapshot.ID)) // and back
	f.holds(c.Dataset.ID, c.Keep.ID, "new")
	f.settled()
}

// For a snapshot that was received without a recorded identity, the first frame of a difference to it already shows the
// problem.
func TestBaseThatNobodyNoted(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	p := inner(f.Pool)
	f.must(f.Snapshot(t.Context(), c.Keep, nil))
	copied := dataset.Dataset{ID: uuid.New()}
	stream := func(s, base uuid.UUID) []byte {
		b, err := readdressed(t.Context(), p, dataset.Snapshot{ID: s, Dataset: c.Dataset.ID}, base, stream.Header{
			Kind:     Name,
			Dataset:  copied.ID,
			Snapshot: s,
			Base:     base,
		})
		f.must(err)
		return b
	}
	receive := func(s, base uuid.UUID, r io.Reader) error {
		d := backends.Delivery{Dataset: copied, Snapshot: dataset.Snapshot{ID: s, Dataset: copied.ID}, Base: base}
		_, err := p.Receive(t.Context(), d, r, nil)
		return err
	}
	f.must(receive(c.Snapshot.ID, uuid.Nil, bytes.NewReader(stream(c.Snapshot.ID, uuid.Nil))))
	base := filepath.Join(f.path(), "copies", copied.ID.String(), shelf.TreeOf(c.Snapshot.ID))
	for _, ro := range []string{"false", "true"} { // this makes the subvolume forget its received UUID
		scratch.Run(t, "btrfs", "property", "set", "-f", base, "ro", ro)
	}
	whole, difference := stream(c.Keep.ID, uuid.Nil), stream(c.Keep.ID, c.Snapshot.ID)
	begun := bytes.NewReader(difference[:len(difference)-1])
	if err := receive(c.Keep.ID, c.Snapshot.ID, begun); !errors.Is(err, backends.ErrBaseDiffers) ||
		!errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("the difference: %v", err)
	}
	f.must(receive(c.Keep.ID, uuid.Nil, bytes.NewReader(whole)))
	f.holds(copied.ID, c.Keep.ID, "new")
	f.settled()
}

// A copy can take more space here than the size of its volume, because its home compresses data and this pool does not.
// It still becomes a head. Nothing can be written to that head before data is deleted or the volume grows.
func TestPromoteOfWhatWasCompressed(t *testing.T) {
	home, f := newFixture(t), newFixture(t)
	compresses := func() bool { return home.Pool.(backends.Compressor).Compresses() }
	if compresses() {
		t.Error("a pool on a btrfs without compression says that it compresses")
	}
	scratch.Run(t, "mount", "-o", "remount,compress-force=zstd", home.disk)
	if !compresses() {
		t.Error("a pool on a btrfs with compression says that it does not compress")
	}
	d := dataset.Dataset{ID: uuid.New(), Size: little}
	s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	_, err := home.Create(t.Context(), d)
	home.must(err)
	home.must(os.WriteFile(home.head(d.ID)+"/file", bytes.Repeat([]byte("drover "), 10<<20), 0o600))
	home.must(home.Snapshot(t.Context(), s, nil))
	var stream bytes.Buffer
	_, err = inner(home.Pool).Send(t.Context(), dataset.Source{Dataset: d.ID, Snapshot: s.ID}, uuid.Nil, 0, &stream,
		nil)
	home.must(err)

	p := inner(f.Pool)
	_, err = p.Receive(t.Context(), backends.Delivery{Dataset: d, Snapshot: s}, &stream, nil)
	f.must(err)
	f.must(p.Promote(t.Context(), d.ID, s.ID))
	f.must(f.Pool.Commit(t.Context(), d.ID))
	f.wantLimit(d.ID, little)
	if used, err := f.Used(t.Context(), d.ID); err != nil || used < 70*dataset.MiB {
		t.Fatalf("it takes %s, %v", used, err)
	}
	write := func() error { return os.WriteFile(f.head(d.ID)+"/more", make([]byte, 1<<20), 0o600) }
	assert.ErrorIsf(t, write(), unix.EDQUOT, "more is written")
	f.must(f.Pool.(backends.Resizer).Resize(t.Context(), d.ID, 2*little, nil))
	f.must(write())
}
