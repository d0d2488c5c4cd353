package backendtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// Keys provides the keys for pools in which every dataset of the suite is encrypted. It is used as Config.Keys. All
// datasets have the same data key, so that each can be a clone of another.
type Keys struct {
	sealed dataset.Encryption
	key    []byte
	fails  error
}

var _ backends.Keys = (*Keys)(nil)

// NewKeys returns Keys with a random data key.
func NewKeys() *Keys {
	return &Keys{sealed: dataset.Encryption{
		ID:      uuid.New(),
		KeyID:   "00000000",
		Wrapped: []byte("wrapped"),
	}, key: treetest.Bytes(23, 64)}
}

// DataKey implements backends.Keys.
func (k *Keys) DataKey(context.Context, dataset.Dataset) ([]byte, error) { return k.key, k.fails }

// little is a size that XFS accepts, and that can be read completely.
const little = 320 * dataset.MiB

// encryptedIsUnreadable checks that the pool contains neither the plain text of an encrypted dataset nor its key.
// Without the key the dataset cannot be mounted. Apart from that it behaves like any other.
func encryptedIsUnreadable(f *fixture) {
	plain := f.cfg.Keys == nil
	own := NewKeys()
	f.cfg.Keys = own
	if !f.can.Encryption {
		d := f.record()
		for range 2 {
			_, err := f.pool.Create(f.ctx, d)
			f.fails(err, dataset.ErrUnsupported)
			f.absent(d.ID)
		}
		return
	}
	f.open()
	pattern := string(treetest.Bytes(17, 64))
	content := strings.Repeat(pattern, 1<<16)
	d := f.sized(little)
	f.write(d.ID, "file", content)
	s := f.take(d)
	if found := f.inPool(d, pattern); found != "" {
		f.Errorf("written data is readable in %s", found)
	}
	if found := f.inPool(d, string(own.key)); found != "" {
		f.Errorf("the key is readable in %s", found)
	}
	f.withoutTheKey(d, s, own)
	f.holds(d.ID, "file", content)
	f.write(d.ID, "file", "other")
	f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, f.snapshot(d), nil))
	f.holds(d.ID, "file", content)
	f.holds(f.clone(f.source(s)).ID, "file", content)
	f.clonesKeepTheKey(s)
	if plain { // proves that the search finds existing text
		f.cfg.Keys = nil
		open := f.sized(little)
		f.write(open.ID, "file", content)
		if f.inPool(open, pattern) == "" && (f.below(open) != "" || f.hasFiles(int64(len(content)))) {
			f.Errorf("data that was written without encryption was not found in the pool")
		}
	}
}

// withoutTheKey checks that calls on an encrypted dataset fail without the key only if they need its content.
func (f *fixture) withoutTheKey(d dataset.Dataset, s dataset.Snapshot, own *Keys) {
	f.Helper()
	before, err := f.pool.Stat(f.ctx, d.ID)
	f.ok(err)
	right, none := own.key, dataset.Errorf(dataset.ErrForbidden, "no key")
	for _, wrong := range []struct {
		key   []byte
		fails error
	}{{right, none}, {treetest.Bytes(29, 64), nil}} {
		own.key, own.fails = wrong.key, wrong.fails
		for range 2 {
			_, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
			f.fails(err, dataset.ErrForbidden)
		}
		after, err := f.pool.Stat(f.ctx, d.ID)
		f.ok(err)
		f.same("the entry after a refusal", after, before)
	}
	f.sizeWithoutTheKey(d, s, own)
	own.fails = none
	f.inState(d, backends.EntryReady)
	_, err = f.pool.Used(f.ctx, d.ID)
	f.ok(err)
	more := f.take(d)
	c := f.clone(f.source(s))
	if f.can.Delta {
		_, err := f.copier().Send(f.ctx, f.source(more), s.ID, 0, io.Discard, nil)
		f.ok(err)
	}
	f.ok(f.pool.DeleteSnapshot(f.ctx, d.ID, more.ID))
	f.ok(f.pool.Delete(f.ctx, c.ID))
	other := f.record()
	_, err = f.pool.Create(f.ctx, other)
	f.fails(err, dataset.ErrForbidden)
	f.absent(other.ID)
	own.key, own.fails = right, nil
}

// sizeWithoutTheKey checks that a call that grows an encrypted dataset without the key either succeeds, or fails and
// changes nothing.
func (f *fixture) sizeWithoutTheKey(d dataset.Dataset, s dataset.Snapshot, own *Keys) {
	f.Helper()
	r, can := f.pool.(backends.Resizer)
	if !can {
		return
	}
	right, none := treetest.Bytes(23, 64), dataset.Errorf(dataset.ErrForbidden, "no key")
	size := func() int64 {
		own.key, own.fails = right, nil
		m := f.mount(d.ID)
		defer m.unmount()
		total, _ := f.space(m)
		return total
	}
	for _, wrong := range []Keys{{key: right, fails: none}, {key: treetest.Bytes(29, 64)}} {
		had := size()
		own.key, own.fails = wrong.key, wrong.fails
		more := dataset.Size(had) + little
		err := r.Resize(f.ctx, d.ID, more, nil)
		if err != nil {
			f.fails(err, dataset.ErrForbidden)
		}
		big := f.record()
		big.Size = more
		if _, cErr := f.pool.Clone(f.ctx, big, f.source(s), nil); cErr != nil {
			f.fails(cErr, dataset.ErrForbidden)
			f.absent(big.ID)
		}
		if has := size(); (err == nil) != (has > had) {
			f.Errorf("resize without its key: %v; it had %d bytes and has %d", err, had, has)
		}
		f.ok(f.pool.Delete(f.ctx, big.ID))

		own.key, own.fails = right, nil
		had, m := size(), f.mount(d.ID)
		own.key, own.fails = wrong.key, wrong.fails
		err = r.Resize(f.ctx, d.ID, more+little/2, m.root)
		own.key, own.fails = right, nil
		m.unmount()
		att, aErr := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
		if f.ok(aErr); err != nil {
			f.fails(err, dataset.ErrForbidden)
			f.same("whether it is larger beneath, after a refusal", att.Mount.Grow, false)
		}
		f.ok(att.Release())
		if has := size(); (err == nil) != (has > had) {
			f.Errorf("resize in use without its key: %v; it had %d bytes and has %d", err, had, has)
		}
	}
}

// clonesKeepTheKey checks that a clone of an encrypted snapshot is refused if its record names another key.
func (f *fixture) clonesKeepTheKey(s dataset.Snapshot) {
	f.Helper()
	other := f.record()
	other.Encryption.ID = uuid.New()
	_, err := f.pool.Clone(f.ctx, other, f.source(s), nil)
	f.fails(err, dataset.ErrInvalid)
	f.absent(other.ID)
	other.Encryption = nil // claims that the clone is not encrypted
	_, err = f.pool.Clone(f.ctx, other, f.source(s), nil)
	f.fails(err, dataset.ErrInvalid)
	f.absent(other.ID)
}

// onDevice searches a whole device for bytes.
func onDevice(path string, what []byte) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := file.ReadAt(buf, at)
		if bytes.Contains(buf[:n], what) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		at += int64(n - len(what) + 1)
	}
}

// contains searches the allocated blocks of a file.
func contains(path string, what []byte) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return false, err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		start, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n, err := file.ReadAt(buf, start)
		if bytes.Contains(buf[:n], what) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		at = start + int64(n-len(what)+1)
	}
}
