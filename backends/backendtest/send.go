package backendtest

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// streamsAreReproducible sends a snapshot again from several offsets, after changes of the head and of other
// snapshots. The bytes must be the same, so that an interrupted transfer can be resumed.
func streamsAreReproducible(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d, first, _ := f.planted()
	f.Write(d.ID, "file-1048576", string(treetest.Bytes(7, 1<<20)))
	between := f.TakeSnapshot(d)
	m := f.Mount(d.ID)
	f.OK(os.RemoveAll(m.PathOf("wide")))
	f.OK(os.WriteFile(m.PathOf("more"), treetest.Bytes(5, 3<<20), 0o600))
	m.Unmount()
	second := f.TakeSnapshot(d)
	for _, base := range []uuid.UUID{uuid.Nil, first.ID} {
		want, sent := f.stream(second, base)
		checkStream := func(when string) {
			f.Helper()
			for _, from := range []int{0, 1, 17, 4096, len(want) / 3, len(want) - 1, len(want)} {
				var got bytes.Buffer
				s, err := f.Copier().Send(f.Ctx, f.Source(second), base, int64(from), &got, nil)
				f.OK(err)
				if s != sent || !bytes.Equal(got.Bytes(), want[from:]) {
					f.Errorf("%s, from %d: %d bytes, %+v, want %d, %+v", when, from, got.Len(), s, len(want)-from, sent)
				}
			}
		}
		checkStream("immediately")
		m := f.Mount(d.ID)
		f.OK(os.WriteFile(m.PathOf("more"), treetest.Bytes(6, 3<<20), 0o600)) // on blocks that were shared
		f.OK(os.WriteFile(m.PathOf("file-1048576"), treetest.Bytes(8, 1<<20), 0o600))
		checkStream("while the head is written")
		m.Unmount()
		later := f.TakeSnapshot(d)
		checkStream("after another snapshot")
		f.OK(f.Pool.DeleteSnapshot(f.Ctx, d.ID, later.ID))
		f.Open()
		checkStream("after a snapshot was deleted")
		if base != uuid.Nil {
			f.OK(f.Pool.DeleteSnapshot(f.Ctx, d.ID, between.ID))
			checkStream("after the snapshot in between was deleted")
		}
		_, err := f.Copier().Send(f.Ctx, f.Source(second), base, int64(len(want))+1, io.Discard, nil)
		f.CheckFails(err, dataset.ErrInvalid)
	}
	_, err := f.Copier().Send(f.Ctx, dataset.Source{Dataset: d.ID, Snapshot: uuid.New()}, uuid.Nil, 0, io.Discard, nil)
	f.CheckFails(err, dataset.ErrNotFound)
	_, err = f.Copier().Send(f.Ctx, f.Source(second), uuid.New(), 0, io.Discard, nil)
	f.CheckFails(err, dataset.ErrNotFound)
}

// pieces is a reader that returns a stream in pieces of an odd size.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.data)
	p.data = p.data[n:]
	p.size = p.size*7%65_521 + 1
	return n, nil
}

// interruptedStreamResumes interrupts a stream many times, and opens and reaps the pool in between. The received part
// must be kept, and in the end the snapshot must be complete.
func interruptedStreamResumes(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d, first, plain := f.planted()
	m := f.Mount(d.ID)
	f.OK(os.WriteFile(m.PathOf("more"), treetest.Bytes(5, 6<<20), 0o600))
	f.OK(os.WriteFile(plain.Name()+"/more", treetest.Bytes(5, 6<<20), 0o600))
	m.Unmount()
	second := f.TakeSnapshot(d)
	o := f.other()
	for _, s := range []struct {
		snapshot dataset.Snapshot
		base     uuid.UUID
	}{{first, uuid.Nil}, {second, first.ID}} {
		data, sent := f.stream(s.snapshot, s.base)
		broken := errors.New("connection reset")
		for part := 1; part <= 9; part++ {
			received := o.received(s.snapshot)
			cut := len(data) * part / 10
			var r io.Reader = bytes.NewReader(data[received.Bytes:max(cut, int(received.Bytes))])
			want := io.ErrUnexpectedEOF
			if part%2 == 0 {
				r, want = io.MultiReader(r, failing{broken}), broken
			}
			err := o.receive(d, s.snapshot, s.base, received.Bytes, r)
			require.ErrorIsf(f, err, want, "cut at %d of %d", cut, len(data))
			earlier := o.received(s.snapshot)
			if earlier.Complete || earlier.Bytes < received.Bytes || earlier.Bytes > int64(cut) ||
				int64(cut)-earlier.Bytes > 2<<20 {
				f.Fatalf("cut at %d of %d: %+v is kept", cut, len(data), earlier)
			}
			if earlier.Bytes > 0 && earlier.Base != s.base {
				f.Errorf("kept for base %s", earlier.Base)
			}
			if part%3 == 0 {
				o.Open()
				o.Reap(0)
			}
			if got := o.received(s.snapshot); got != earlier {
				f.Fatalf("%+v is kept, then %+v", earlier, got)
			}
		}
		received := o.received(s.snapshot)
		for from, base := range map[int64]uuid.UUID{1: s.base, received.Bytes - 1: s.base, received.Bytes: uuid.New()} {
			f.CheckFails(o.receive(d, s.snapshot, base, from, bytes.NewReader(data)), dataset.ErrConflict)
		}
		f.OK(o.receive(d, s.snapshot, s.base, received.Bytes, &pieces{data[received.Bytes:], 1}))
		if got := o.received(s.snapshot); !got.Complete || got.Stream != sent {
			f.Errorf("received %+v, sent %+v", got, sent)
		}
		f.OK(o.receive(d, s.snapshot, s.base, 0, failing{broken})) // not read: the snapshot is complete
	}
	o.CheckSnapshots(d.ID, first, second)
	f.OK(o.Copier().Promote(f.Ctx, d.ID, second.ID))
	f.OK(o.Pool.Commit(f.Ctx, d.ID))
	m = o.Mount(d.ID)
	one, err := os.ReadFile(m.PathOf("more"))
	if err != nil || !bytes.Equal(one, treetest.Bytes(5, 6<<20)) {
		f.Errorf("%d bytes, %v", len(one), err)
	}
	m.Unmount()
	o.Reap(0)
}

type failing struct{ err error }

func (r failing) Read([]byte) (int, error) { return 0, r.err }

// damagedStreamIsRefused changes one byte of a stream, in the first part or in the one that follows an interruption.
// Receive must fail, and keep nothing of the stream. If the byte was in the first part, that may be found only at the
// end of the stream.
func damagedStreamIsRefused(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d := f.Create()
	f.Write(d.ID, "file", string(treetest.Bytes(4, 5<<20)))
	s := f.TakeSnapshot(d)
	data, _ := f.stream(s, uuid.Nil)
	o := f.other()
	places := []int{0, 1, 7, 8, 100, 511, 512, 4096, len(data) - 1, len(data) - 4, len(data) - 40}
	for i := range 16 {
		places = append(places, len(data)*(i+1)/17)
	}
	for i, at := range places {
		flipped := bytes.Clone(data)
		flipped[at] ^= 0x10
		first, rest := data, flipped
		cut := at
		if i%3 == 1 {
			first, rest, cut = flipped, data, min(at+1<<20, len(data)-1)
		}
		var from int64
		if i%3 != 0 {
			if err := o.receive(d, s, uuid.Nil, 0, bytes.NewReader(first[:cut])); err == nil {
				f.Fatalf("%d of %d bytes were accepted as complete", cut, len(data))
			}
			from = o.received(s).Bytes
		}
		err := o.receive(d, s, uuid.Nil, from, bytes.NewReader(rest[from:]))
		got := o.received(s)
		switch {
		case err == nil && i%3 == 1 && from <= int64(at): // the changed byte was sent again
			f.OK(o.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID))
		case errors.Is(err, dataset.ErrCorrupt) && !got.Complete && got.Bytes == 0:
		case errors.Is(err, io.ErrUnexpectedEOF) && !got.Complete: // a length was changed
			f.OK(o.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID))
		default:
			f.Errorf("flipped at %d of %d, resumed at %d: %v, and %+v is kept", at, len(data), from, err, got)
		}
	}
	other := f.NewSnapshot(d)
	f.CheckFails(o.receive(d, other, uuid.Nil, 0, bytes.NewReader(data)), dataset.ErrCorrupt)
	f.CheckFails(o.receive(o.Record(), s, uuid.Nil, 0, bytes.NewReader(data)), dataset.ErrCorrupt)
	f.CheckFails(o.receive(d, s, uuid.New(), 0, bytes.NewReader(data)), dataset.ErrCorrupt)
	f.CheckFails(o.receive(d, s, uuid.Nil, 0, bytes.NewReader(append(bytes.Clone(data), 0))), dataset.ErrCorrupt)
	o.CheckSnapshots(d.ID)
	f.OK(o.receive(d, s, uuid.Nil, 0, bytes.NewReader(data)))
	o.CheckSnapshots(d.ID, s)
}
