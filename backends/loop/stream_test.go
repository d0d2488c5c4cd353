package loop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// stream writes a small one: data, zeros, data.
func stream(t testing.TB, h streamHeader) []byte {
	t.Helper()
	var buf bytes.Buffer
	e, err := newEncoder(&buf, h, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(e.data(0, []byte("head")), e.zeros(2*sector, 3*sector), e.data(8*sector, []byte("tail")), e.end())
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func header() streamHeader {
	return streamHeader{Dataset: uuid.New(), Snapshot: uuid.New(), Size: 100 * sector, Filesystem: xfs}
}

type seen struct {
	Offset, Length int64
	Data           string
}

func decode(r io.Reader) (streamHeader, []seen, error) {
	d, err := newDecoder(r)
	if err != nil {
		return streamHeader{}, nil, err
	}
	var all []seen
	for {
		c, err := d.nextChange()
		if errors.Is(err, io.EOF) {
			return d.header, all, nil
		}
		if err != nil {
			return d.header, all, err
		}
		all = append(all, seen{c.offset, c.length, string(c.data)})
	}
}

func TestStreamRoundTrip(t *testing.T) {
	want := header()
	got, changes, err := decode(bytes.NewReader(stream(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	ranges := []seen{{0, 4, "head"}, {2 * sector, 3 * sector, ""}, {8 * sector, 4, "tail"}}
	if diff := cmp.Diff(ranges, changes); diff != "" {
		t.Error(diff)
	}
}

// Whatever single byte is changed, left out or added, it is noticed.
func TestEveryDamageIsNoticed(t *testing.T) {
	good := stream(t, header())
	bad := func(what string, at int, b []byte, want ...error) {
		t.Helper()
		_, _, err := decode(bytes.NewReader(b))
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s at %d: %v", what, at, err)
		}
	}
	for at := range good {
		flipped := bytes.Clone(good)
		flipped[at] ^= 1 << (at % 8)
		bad("flipped", at, flipped, dataset.ErrCorrupt, io.ErrUnexpectedEOF) // the latter where it made a length longer
		bad("cut", at, good[:at], io.ErrUnexpectedEOF)
		if at+1 < len(good) && good[at] != good[at+1] {
			bad("left out", at, append(bytes.Clone(good[:at]), good[at+1:]...), dataset.ErrCorrupt, io.ErrUnexpectedEOF)
		}
	}
	bad("added", len(good), append(bytes.Clone(good), 0), dataset.ErrCorrupt)
}

// Streams whose checksums are right and whose content is not.
func TestForgedStreams(t *testing.T) {
	forge := func(h streamHeader, f func(e *encoder) error) []byte {
		var buf bytes.Buffer
		e, err := newEncoder(&buf, h, 0)
		if err == nil {
			err = errors.Join(f(e), e.end())
		}
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	nothing := func(*encoder) error { return nil }
	sized := func(size int64) streamHeader {
		h := header()
		h.Size = size
		return h
	}
	for name, b := range map[string][]byte{
		"beyond the end":      forge(header(), func(e *encoder) error { return e.data(99*sector, make([]byte, 2*sector)) }),
		"far beyond":          forge(header(), func(e *encoder) error { return e.zeros(1<<62, 1<<62) }),
		"negative offset":     forge(header(), func(e *encoder) error { return e.data(-sector, make([]byte, sector)) }),
		"negative length":     forge(header(), func(e *encoder) error { return e.zeros(sector, -sector) }),
		"no length":           forge(header(), func(e *encoder) error { return e.data(0, nil) }),
		"backwards":           forge(header(), func(e *encoder) error { return errors.Join(e.zeros(9*sector, sector), e.zeros(0, sector)) }),
		"twice the same":      forge(header(), func(e *encoder) error { return errors.Join(e.zeros(0, sector), e.zeros(0, sector)) }),
		"two headers":         forge(header(), func(e *encoder) error { return e.frame(frameStart, 0, 2, []byte("{}")) }),
		"unknown frame":       forge(header(), func(e *encoder) error { return e.frame('X', 0, 0, nil) }),
		"no size":             forge(sized(0), nothing),
		"a negative size":     forge(sized(-sector), nothing),
		"a size of no blocks": forge(sized(sector+1), nothing),
		"too large":           forge(sized(1<<60), nothing),
	} {
		if _, _, err := decode(bytes.NewReader(b)); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := decode(bytes.NewReader(forge(header(), nothing))); err != nil {
		t.Errorf("an empty difference: %v", err)
	}
}

// C7: no stream makes it panic, take much memory, or give a range outside of the image.
func FuzzDecoder(f *testing.F) {
	f.Add(stream(f, header()))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, changes, err := decode(bytes.NewReader(b))
		if err != nil && !errors.Is(err, dataset.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an error of another kind: %v", err)
		}
		for _, c := range changes {
			if c.Offset < 0 || c.Length <= 0 || c.Offset+c.Length > h.Size {
				t.Errorf("range %+v in an image of %d", c, h.Size)
			}
		}
	})
}

// What goes on where a stream was cut has to be the rest of that stream: if its source makes
// another one by now, all of it comes again.
func TestPartsOfTwoStreams(t *testing.T) {
	onPools(t, func(f *fixture) {
		h := header()
		make2 := func(first string) []byte {
			var buf bytes.Buffer
			e, err := newEncoder(&buf, h, 0)
			f.must(err)
			f.must(errors.Join(e.data(0, []byte(first)), e.data(8*sector, []byte("second")), e.end()))
			return buf.Bytes()
		}
		one, other := make2("XFSB one"), make2("XFSB two")
		d := backends.Delivery{Dataset: newDataset(xfs), Snapshot: dataset.Snapshot{ID: h.Snapshot, Dataset: h.Dataset}}
		d.Dataset.ID = h.Dataset
		_, err := f.Receive(f.Context(), d, bytes.NewReader(one[:len(one)-80]), nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			f.Fatal(err)
		}
		have, err := f.Received(f.Context(), h.Dataset, h.Snapshot)
		if err != nil || have.Bytes == 0 {
			f.Fatal(have, err)
		}
		d.From = have.Bytes
		_, err = f.Receive(f.Context(), d, bytes.NewReader(other[have.Bytes:]), nil)
		f.isKind(err, dataset.ErrCorrupt)
		if have, err := f.Received(f.Context(), h.Dataset, h.Snapshot); err != nil || have != (backends.Received{}) {
			f.Errorf("kept is %+v, %v", have, err)
		}
		d.From = 0
		got, err := f.Receive(f.Context(), d, bytes.NewReader(other), nil)
		if err != nil || got.Bytes != int64(len(other)) {
			f.Errorf("all of the other: %+v, %v", got, err)
		}
	})
}

// A difference holds what changed and hardly more, and between two kinds of pools.
func TestDifferenceIsSmall(t *testing.T) {
	a, b := newFixture(t, "xfs"), newFixture(t, "btrfs")
	for _, fs := range []string{xfs, ext4} {
		d := newDataset(fs)
		a.create(d)
		rng := rand.New(rand.NewPCG(1, 1))
		bulk := make([]byte, 64<<20)
		for i := range bulk {
			bulk[i] = byte(rng.Uint32())
		}
		root, unmount := a.mounted(d.ID)
		a.write(filepath.Join(root, "bulk"), string(bulk))
		base := a.takeSnapshot(d)
		const changed = 4 << 20
		file, err := os.OpenFile(filepath.Join(root, "bulk"), os.O_RDWR, 0)
		a.must(err)
		for i := range 64 {
			copy(bulk[i<<20:], bytes.Repeat([]byte{byte(i)}, changed/64))
			_, err := file.WriteAt(bulk[i<<20:i<<20+changed/64], int64(i)<<20)
			a.must(err)
		}
		a.must(errors.Join(file.Sync(), file.Close()))
		newer := a.takeSnapshot(d)
		unmount()

		var whole, delta bytes.Buffer
		_, err = a.Send(t.Context(), at(base), uuid.Nil, 0, &whole, nil)
		a.must(err)
		_, err = a.Send(t.Context(), at(newer), base.ID, 0, &delta, nil)
		a.must(err)
		c, err := a.Changed(t.Context(), at(base), at(newer))
		a.must(err)
		if c.Bytes < changed || c.Bytes > changed*11/10 || int64(delta.Len()) > c.Bytes*105/100 {
			t.Errorf("%s: %d bytes of %d changed ones, for %+v", fs, delta.Len(), changed, c)
		}

		_, err = b.Receive(t.Context(), backends.Delivery{Dataset: d, Snapshot: base}, &whole, nil)
		b.must(err)
		_, err = b.Receive(t.Context(), backends.Delivery{Dataset: d, Snapshot: newer, Base: base.ID}, &delta, nil)
		b.must(err)
		b.must(b.Promote(t.Context(), d.ID, newer.ID))
		b.must(b.Commit(t.Context(), d.ID))
		if got := b.get(d.ID, "bulk"); got != string(bulk) {
			t.Errorf("%s: %d bytes, other ones", fs, len(got))
		}
	}
}

// A flush that takes long holds up what comes only when that has become much. There has to
// be room for it all the same.
func TestCheckpointGoesOnMeanwhile(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	r := &receiving{dir: folder{File: dir}, image: image, pool: &Pool{layout: xfsLayout{}, backend: &Backend{step: func(string) {}, every: 4, lag: 10, ahead: true}}, checked: 9, flushing: make(chan error, 1)}
	r.done.Offset, r.done.At = 9, 90
	if err := r.checkpoint(); err != nil || r.safe != 0 {
		t.Errorf("%v, %d bytes are about to be on record", err, r.safe)
	}
	if r.measured != 0 {
		t.Error("it looked for room too early")
	}
	r.checked = 5
	if err := r.checkpoint(); err != nil || r.measured != 9 || r.checked != 9 || r.pushed != 90 {
		t.Errorf("whether there is room for what comes meanwhile was looked for at byte %d, and writing begun until %d: %v", r.measured, r.pushed, err)
	}
	r.done.Offset = 10
	late := errors.New("the disk broke")
	go func() { r.flushing <- late }()
	if err := r.checkpoint(); !errors.Is(err, late) {
		t.Errorf("it did not wait: %v", err)
	}
}

// A cut costs little beside what had come, and a flush is rare where much comes.
func TestCheckpointsAreRare(t *testing.T) {
	r := &receiving{pool: &Pool{backend: New(nil)}}
	n := 0
	for r.done.Offset < 10<<30 {
		due := r.due()
		if most := max(checkpointEvery, r.done.Offset/checkpointPart, 1); due > most || due > checkpointMost {
			t.Fatalf("after %d bytes a cut costs %d", r.done.Offset, due)
		}
		r.done.Offset += due
		n++
	}
	if n > 230 {
		t.Errorf("%d checkpoints of 10 GiB", n)
	}
}
