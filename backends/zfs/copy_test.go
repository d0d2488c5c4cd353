package zfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
)

func (b *bench) copier() backends.Copier { return b.pool.(backends.Copier) }

// raw returns the output of zfs send for a snapshot of a head. base is uuid.Nil or an older snapshot of the same head.
func (b *bench) raw(s dataset.Snapshot, base uuid.UUID, args ...string) []byte {
	b.Helper()
	args = append([]string{"send"}, args...)
	head := b.home + "/drover-" + b.cfg.ID.String() + "/" + s.Dataset.String() + "/head@drover-"
	if base != uuid.Nil {
		args = append(args, "-i", head+base.String())
	}
	var out bytes.Buffer
	_, err := (&run.System{}).Run(b.Context(), run.Command{
		Name:    "zfs",
		Args:    append(args, head+s.ID.String()),
		Timeout: time.Minute,
		Stdout:  &out,
	})
	b.ok(err)
	return out.Bytes()
}

// framed makes the output of zfs send into the stream of a snapshot of another dataset.
func (b *bench) framed(raw []byte, to dataset.Dataset, s, base uuid.UUID) []byte {
	b.Helper()
	var out bytes.Buffer
	h := stream.Header{Kind: zfs.Name, Dataset: to.ID, Snapshot: s, Base: base, Size: 64 * dataset.MiB}
	_, err := stream.Send(&out, h, 0, nil, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
	b.ok(err)
	return out.Bytes()
}

func (b *bench) receive(to dataset.Dataset, s, base uuid.UUID, stream []byte) error {
	b.Helper()
	have, err := b.copier().Received(b.Context(), to.ID, s)
	b.ok(err)
	d := backends.Delivery{Dataset: to, Snapshot: dataset.Snapshot{ID: s, Dataset: to.ID}, Base: base, From: have.Bytes}
	_, err = b.copier().Receive(b.Context(), d, bytes.NewReader(stream[min(have.Bytes, int64(len(stream))):]), nil)
	return err
}

// keeps fails unless a clone of a snapshot has the content.
func (b *bench) keeps(ds, snapshot uuid.UUID, want string) {
	b.Helper()
	c := dataset.Dataset{ID: uuid.New()}
	_, err := b.pool.Clone(b.Context(), c, dataset.Source{Dataset: ds, Snapshot: snapshot}, nil)
	b.ok(err)
	b.holds(c.ID, want)
	b.ok(b.pool.Delete(b.Context(), c.ID))
}

// isCopy fails unless a dataset is a copy with these snapshots and without a head.
func (b *bench) isCopy(ds uuid.UUID, snapshots ...uuid.UUID) {
	b.Helper()
	e, err := b.pool.Stat(b.Context(), ds)
	b.ok(err)
	var have []uuid.UUID
	for _, s := range e.Snapshots {
		have = append(have, s.ID)
	}
	for _, s := range snapshots {
		if !slices.Contains(have, s) {
			b.Errorf("snapshot %s is gone", s)
		}
	}
	if e.State != backends.EntryCopy || e.Promoted || e.Problem != "" || len(have) != len(snapshots) {
		b.Errorf("it is %+v", e)
	}
}

func promoted(b *bench, ds, snapshot uuid.UUID) error {
	if err := b.copier().Promote(b.Context(), ds, snapshot); err != nil {
		return err
	}
	return b.pool.Commit(b.Context(), ds)
}

// Nothing is received from a stream with wrong content, whatever its header says, and the existing snapshots stay. The
// frames around the content are correct, because a malicious peer can make them.
func TestStreamsThatAreRefused(t *testing.T) {
	b := newBench(t)
	d, twin, to := b.create(), b.create(), dataset.Dataset{ID: uuid.New(), Volume: "copy"}
	b.write(d.ID, "old")
	b.write(twin.ID, "secret")
	first, theirs := b.snapshot(d.ID), b.snapshot(twin.ID)
	b.write(d.ID, "new")
	second := b.snapshot(d.ID)
	whole, more := b.raw(first, uuid.Nil), b.raw(second, first.ID)
	b.ok(b.receive(to, first.ID, uuid.Nil, b.framed(whole, to, first.ID, uuid.Nil)))
	before := b.names()
	guid := func(s dataset.Snapshot) uint64 { return binary.NativeEndian.Uint64(b.raw(s, uuid.Nil)[40:]) }
	with := func(raw []byte, change func([]byte)) []byte {
		raw = bytes.Clone(raw)
		change(raw)
		return raw
	}
	u64 := binary.NativeEndian.PutUint64
	for name, c := range map[string]struct {
		raw  []byte
		base uuid.UUID
	}{
		"nothing":                      {nil, uuid.Nil},
		"no stream":                    {[]byte(strings.Repeat("garbage ", 100)), uuid.Nil},
		"the half of one":              {whole[:len(whole)/2], uuid.Nil},
		"one and more":                 {append(bytes.Clone(whole), 0), uuid.Nil},
		"two of them":                  {append(bytes.Clone(whole), whole...), uuid.Nil},
		"one that names what it is of": {b.raw(first, uuid.Nil, "-p"), uuid.Nil},
		"a tree of them":               {b.raw(first, uuid.Nil, "-R"), uuid.Nil},
		"a difference to another base": {with(more, func(raw []byte) { u64(raw[48:], 1) }), first.ID},
		"a difference to another's": {
			with(more, func(raw []byte) { u64(raw[48:], guid(theirs)); raw[36] = 1 }), first.ID,
		},
		"a difference that says none":    {more, uuid.Nil},
		"all, that says a difference":    {whole, first.ID},
		"a clone of nothing":             {with(whole, func(raw []byte) { raw[36] = 1 }), uuid.Nil},
		"what goes on":                   {with(whole, func(raw []byte) { u64(raw[16:], 1|1<<(2+20)) }), uuid.Nil},
		"what refers to elsewhere":       {with(whole, func(raw []byte) { u64(raw[16:], 1|1<<2) }), uuid.Nil},
		"what is encrypted":              {with(whole, func(raw []byte) { u64(raw[16:], 1|1<<(2+24)) }), uuid.Nil},
		"a volume's":                     {with(whole, func(raw []byte) { raw[32] = 3 }), uuid.Nil},
		"a record of a kind that is not": {with(whole, func(raw []byte) { raw[312] = 99 }), uuid.Nil},
		"a record without an end":        {with(whole, func(raw []byte) { raw[312], raw[312+39] = 1, 0x7f }), uuid.Nil},
		"one bit that is another":        {with(whole, func(raw []byte) { raw[len(raw)-400] ^= 1 }), uuid.Nil},
	} {
		id := uuid.New()
		err := b.receive(to, id, c.base, b.framed(c.raw, to, id, c.base))
		assert.ErrorIsf(t, err, dataset.ErrCorrupt, "%s", name)
		// After ErrBaseDiffers the receiver requests the whole snapshot.
		if strings.HasPrefix(name, "a difference to another") && !errors.Is(err, backends.ErrBaseDiffers) {
			t.Errorf("%s: %v, want also ErrBaseDiffers", name, err)
		}
		if have, err := b.copier().Received(t.Context(), to.ID, id); err != nil || have != (backends.Received{}) {
			t.Errorf("%s: %+v is kept, %v", name, have, err)
		}
		if after := b.names(); !slices.Equal(after, before) {
			t.Fatalf("%s: it left %q, and there was %q", name, after, before)
		}
	}
	b.isCopy(to.ID, first.ID)
	b.ok(b.receive(to, second.ID, first.ID, b.framed(more, to, second.ID, first.ID)))
	b.keeps(to.ID, second.ID, "new")
}

// A received filesystem cannot choose where or whether it is mounted. It has the properties that the pool sets.
func TestReceivedIsNotMounted(t *testing.T) {
	b := newBench(t)
	d, to := b.create(), dataset.Dataset{ID: uuid.New(), Volume: "copy"}
	b.write(d.ID, "content")
	s := b.snapshot(d.ID)
	head := b.home + "/drover-" + b.cfg.ID.String() + "/" + d.ID.String() + "/head"
	for _, property := range []string{"mountpoint=" + b.TempDir(), "exec=off", "setuid=off"} {
		lines(t, "set", property, head)
	}
	b.ok(b.receive(to, s.ID, uuid.Nil, b.framed(b.raw(s, uuid.Nil), to, s.ID, uuid.Nil)))
	for _, line := range lines(t, "get", "-Hpr", "-o", "name,property,value",
		"mountpoint,canmount,exec,setuid,refquota", b.home+"/drover-"+b.cfg.ID.String()+"/"+to.ID.String()) {
		field := strings.Fields(line)
		want := map[string]string{
			"mountpoint": "legacy",
			"canmount":   "noauto",
			"exec":       "on",
			"setuid":     "on",
			"refquota":   "0",
		}[field[1]]
		if !strings.Contains(field[0], "@") && strings.Contains(field[0], "/head-") && field[2] != want {
			t.Errorf("%s is %s", field[1], field[2])
		}
	}
	b.ok(promoted(b, to.ID, s.ID))
	b.holds(to.ID, "content")
}

// If later snapshots exist, the difference to an earlier snapshot is received into a clone. No filesystem is rolled
// back past its snapshots.
func TestOnABaseThatIsNotTheLast(t *testing.T) {
	b := newBench(t)
	d, to := b.create(), dataset.Dataset{ID: uuid.New(), Volume: "copy"}
	b.write(d.ID, "old")
	first := b.snapshot(d.ID)
	b.write(d.ID, "new")
	second := b.snapshot(d.ID)
	whole, more := b.raw(first, uuid.Nil), b.raw(second, first.ID)
	b.ok(b.receive(to, first.ID, uuid.Nil, b.framed(whole, to, first.ID, uuid.Nil)))
	b.ok(promoted(b, to.ID, first.ID))
	b.write(to.ID, "overtaken")
	keep := dataset.Snapshot{ID: uuid.New(), Dataset: to.ID, Kind: dataset.SnapshotSuperseded}
	b.ok(b.copier().Supersede(t.Context(), to.ID, keep))
	err := b.receive(to, second.ID, first.ID, b.framed(more, to, second.ID, first.ID))
	if variant == "fuse" {
		assert.ErrorIsf(t, err, dataset.ErrUnsupported, "received")
		b.isCopy(to.ID, first.ID, keep.ID)
	} else {
		b.ok(err)
		b.isCopy(to.ID, first.ID, keep.ID, second.ID)
		b.keeps(to.ID, second.ID, "new")
	}
	b.keeps(to.ID, keep.ID, "overtaken")
	b.keeps(to.ID, first.ID, "old")
	b.reap()
	b.list()
	b.ok(b.pool.Delete(t.Context(), to.ID))
	b.has(false, to.ID.String())
}

// The head that a restore kept is in another branch than later snapshots, so there is no difference between the two. A
// copy can nevertheless be promoted to it, and it stays.
func TestPromoteWhatARestoreKept(t *testing.T) {
	b, d, s, keep := newRestored(t)
	at := func(id uuid.UUID) dataset.Source { return dataset.Source{Dataset: d.ID, Snapshot: id} }
	if _, err := b.copier().Changed(t.Context(), at(keep.ID), at(uuid.Nil)); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("what changed since another branch: %v", err)
	}
	if _, err := b.copier().Send(t.Context(), at(s.ID), keep.ID, 0, io.Discard,
		nil); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("sent as a difference to what came later: %v", err)
	}
	for id, want := range map[uuid.UUID]bool{s.ID: true, keep.ID: false} {
		if same, err := b.copier().Same(t.Context(), d.ID, id, uuid.Nil); err != nil || same != want {
			t.Errorf("the same as %s: %v, %v", id, same, err)
		}
	}
	assert.ErrorIsf(t, b.copier().Demote(t.Context(), d.ID, keep.ID), dataset.ErrConflict, "demoted to what it is not")
	b.ok(b.copier().Demote(t.Context(), d.ID, s.ID))
	b.reap()
	b.isCopy(d.ID, s.ID, keep.ID)
	b.ok(promoted(b, d.ID, keep.ID))
	b.holds(d.ID, "new")
	b.keeps(d.ID, keep.ID, "new")
	b.keeps(d.ID, s.ID, "old")
	b.reap()
	b.list()
}

// If the receiver stops reading, zfs send ends. A read error is returned unchanged.
func TestSendIsCut(t *testing.T) {
	b := newBench(t)
	d := b.create()
	b.in(d.ID, func(root *os.Root) {
		b.ok(root.WriteFile("file", bytes.Repeat([]byte("0123456789abcdef"), 1<<19), 0o600))
	})
	s := b.snapshot(d.ID)
	broken := errors.New("connection reset")
	r, w := io.Pipe()
	go func() {
		_, _ = io.CopyN(io.Discard, r, 1<<20)
		_ = r.CloseWithError(broken)
	}()
	_, err := b.copier().Send(t.Context(), dataset.Source{Dataset: d.ID, Snapshot: s.ID}, uuid.Nil, 0, w, nil)
	if !errors.Is(err, broken) {
		t.Errorf("it ended with %v", err)
	}
	if left, err := filepath.Glob("/proc/[0-9]*/cmdline"); err == nil {
		for _, path := range left {
			if raw, _ := os.ReadFile(path); bytes.HasPrefix(raw, []byte("zfs\x00send")) &&
				bytes.Contains(raw, []byte(s.ID.String())) {
				t.Errorf("%s is left", path)
			}
		}
	}
}
