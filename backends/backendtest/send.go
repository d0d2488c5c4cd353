package backendtest

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// stream sends a snapshot, or what changed since base.
func (f *fixture) stream(s dataset.Snapshot, base uuid.UUID) []byte {
	f.Helper()
	var out bytes.Buffer
	f.ok(f.pool.(backends.Sender).Send(f.ctx, f.source(s), base, &out, nil))
	return out.Bytes()
}

func (f *fixture) receive(d dataset.Dataset, base *dataset.Source, r io.Reader) error {
	return f.pool.(backends.Sender).Receive(f.ctx, d, base, r, nil)
}

func (f *fixture) sends() bool {
	_, ok := f.pool.(backends.Sender)
	return ok
}

// planted makes a dataset with everything in it, a snapshot of it, and a plain
// copy to compare with.
func (f *fixture) planted() (dataset.Dataset, dataset.Snapshot, *os.File) {
	f.Helper()
	d, plain := f.create(), f.plain()
	m := f.mount(d.ID)
	treetest.Plant(f.T, m.path)
	f.ok(tree.Copy(f.ctx, m.root, plain, nil))
	m.unmount()
	return d, f.take(d), plain
}

func sendWhole(f *fixture) {
	if !f.sends() {
		return
	}
	d, s, plain := f.planted()
	f.write(d.ID, "later", "not in the snapshot")
	data := f.stream(s, uuid.Nil)
	got := f.record()
	f.twice(func() error { return f.receive(got, nil, bytes.NewReader(data)) })
	f.inState(got, backends.EntryIncoming)
	f.ok(f.pool.Commit(f.ctx, got.ID))
	m := f.mount(got.ID)
	f.equal(plain, m.root)
	m.unmount()
	again := f.record()
	f.ok(f.receive(again, nil, iotestOneByte(data)))
	m = f.mount(again.ID)
	f.equal(plain, m.root)
	m.unmount()
	f.fails(f.pool.(backends.Sender).Send(f.ctx, dataset.Source{Dataset: d.ID, Snapshot: uuid.New()}, uuid.Nil, io.Discard, nil), dataset.ErrNotFound)
}

// iotestOneByte returns a reader that gives a stream in odd pieces.
func iotestOneByte(data []byte) io.Reader { return &pieces{data, 1} }

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

// sendDifference carries a dataset over in two steps, as a move does: whole,
// then what changed. The snapshot that both sides have carries one UUID.
func sendDifference(f *fixture) {
	if !f.can.Delta {
		return
	}
	d, first, _ := f.planted()
	there := f.record()
	f.ok(f.receive(there, nil, bytes.NewReader(f.stream(first, uuid.Nil))))
	f.ok(f.pool.Commit(f.ctx, there.ID))
	base := first
	base.Dataset = there.ID
	f.ok(f.pool.Snapshot(f.ctx, base, nil))

	m, plain := f.mount(d.ID), f.plain()
	f.ok(os.WriteFile(m.in("more"), treetest.Bytes(5, 3<<20), 0o600))
	f.ok(os.RemoveAll(m.in("wide")))
	f.ok(tree.Copy(f.ctx, m.root, plain, nil))
	m.unmount()
	second := f.take(d)
	delta := f.stream(second, first.ID)
	if whole := f.stream(second, uuid.Nil); len(delta) >= len(whole) {
		f.Errorf("the difference takes %d bytes, the whole %d", len(delta), len(whole))
	}
	change, err := f.pool.(backends.Sender).Changed(f.ctx, f.source(first), f.source(second))
	f.ok(err)
	if change.Bytes < 3<<20 || int64(len(delta)) > change.Bytes*105/100+1<<20 {
		f.Errorf("changed is %+v, the stream takes %d bytes", change, len(delta))
	}

	got, from := f.record(), f.source(base)
	f.twice(func() error { return f.receive(got, &from, bytes.NewReader(delta)) })
	f.ok(f.pool.Commit(f.ctx, got.ID))
	m = f.mount(got.ID)
	f.equal(plain, m.root)
	m.unmount()

	wrong := f.take(there) // the same bytes, but another point in time
	refused, from := f.record(), f.source(wrong)
	f.fails(f.receive(refused, &from, bytes.NewReader(delta)), dataset.ErrConflict)
	f.absent(refused.ID)
	f.fails(f.receive(refused, nil, bytes.NewReader(delta)), dataset.ErrConflict)
	f.absent(refused.ID)
}

// damagedStreamIsRefused cuts a stream, flips a byte of it, and lets its source
// fail: an error, and nothing is left.
func damagedStreamIsRefused(f *fixture) {
	if !f.sends() {
		return
	}
	d := f.create()
	f.write(d.ID, "file", string(treetest.Bytes(4, 5<<20)))
	data := f.stream(f.take(d), uuid.Nil)
	try := func(what string, at int, r io.Reader, kinds ...*dataset.Kind) {
		f.Helper()
		got := f.record()
		err := f.receive(got, nil, r)
		ok := err != nil && len(kinds) == 0
		for _, k := range kinds {
			ok = ok || isKind(err, k)
		}
		if !ok {
			f.Errorf("%s at %d of %d: %v", what, at, len(data), err)
		}
		f.absent(got.ID)
	}
	places := []int{0, 1, 7, 8, 100, 511, 512, 4096, len(data) - 1, len(data) - 4, len(data) - 40}
	for i := range 16 {
		places = append(places, len(data)*(i+1)/17)
	}
	for _, at := range places {
		try("cut", at, bytes.NewReader(data[:at]), dataset.ErrCorrupt)
		flipped := bytes.Clone(data)
		flipped[at] ^= 0x10
		try("flipped", at, bytes.NewReader(flipped), dataset.ErrCorrupt)
		broken := errors.New("connection reset")
		try("broken", at, io.MultiReader(bytes.NewReader(data[:at]), failing{broken}))
	}
	if list, err := f.pool.List(f.ctx); err != nil || len(list) != 1 {
		f.Errorf("the list has %+v, %v", list, err)
	}
}

type failing struct{ err error }

func (r failing) Read([]byte) (int, error) { return 0, r.err }
