package backendtest

import (
	"io"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// little is a size that XFS accepts, and that is small enough to search all bytes of the dataset.
const little = 320 * dataset.MiB

// encryptedIsUnreadable checks that the pool contains neither the plain text of an encrypted dataset nor its key.
// Without the key the dataset cannot be mounted. Apart from that it behaves like any other.
func encryptedIsUnreadable(f *fixture) {
	plain := f.Config.Keys == nil
	own := NewKeys()
	f.Config.Keys = own
	if !f.Can.Encryption {
		d := f.Record()
		for range 2 {
			_, err := f.Pool.Create(f.Ctx, d)
			f.CheckFails(err, dataset.ErrUnsupported)
			f.CheckAbsent(d.ID)
		}
		return
	}
	f.Open()
	pattern := string(treetest.Bytes(17, 64))
	content := strings.Repeat(pattern, 1<<16)
	d := f.Sized(little)
	f.Write(d.ID, "file", content)
	s := f.TakeSnapshot(d)
	if found := f.FindInPool(d, pattern); found != "" {
		f.Errorf("written data is readable in %s", found)
	}
	if found := f.FindInPool(d, string(own.Key)); found != "" {
		f.Errorf("the key is readable in %s", found)
	}
	f.checkWithoutKey(d, s, own)
	f.CheckContent(d.ID, "file", content)
	f.Write(d.ID, "file", "other")
	f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, f.NewSnapshot(d), nil))
	f.CheckContent(d.ID, "file", content)
	f.CheckContent(f.Clone(f.Source(s)).ID, "file", content)
	f.checkCloneKeys(s)
	if plain { // proves that the search finds existing text
		f.Config.Keys = nil
		open := f.Sized(little)
		f.Write(open.ID, "file", content)
		if f.FindInPool(open, pattern) == "" && (f.DeviceBelow(open) != "" || f.HasFiles(int64(len(content)))) {
			f.Errorf("data that was written without encryption was not found in the pool")
		}
	}
}

// checkWithoutKey checks that calls on an encrypted dataset fail without the key only if they need its content.
func (f *fixture) checkWithoutKey(d dataset.Dataset, s dataset.Snapshot, own *Keys) {
	f.Helper()
	before, err := f.Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	right, none := own.Key, dataset.Errorf(dataset.ErrForbidden, "no key")
	for _, wrong := range []struct {
		key   []byte
		fails error
	}{{right, none}, {treetest.Bytes(29, 64), nil}} {
		own.Key, own.Err = wrong.key, wrong.fails
		for range 2 {
			_, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
			f.CheckFails(err, dataset.ErrForbidden)
		}
		after, err := f.Pool.Stat(f.Ctx, d.ID)
		f.OK(err)
		f.Same("the entry after a refusal", after, before)
	}
	f.checkGrowthWithoutKey(d, s, own)
	own.Err = none
	f.CheckState(d, backends.EntryReady)
	_, err = f.Pool.Used(f.Ctx, d.ID)
	f.OK(err)
	more := f.TakeSnapshot(d)
	c := f.Clone(f.Source(s))
	if f.Can.Delta {
		_, err := f.Copier().Send(f.Ctx, f.Source(more), s.ID, 0, io.Discard, nil)
		f.OK(err)
	}
	f.OK(f.Pool.DeleteSnapshot(f.Ctx, d.ID, more.ID))
	f.OK(f.Pool.Delete(f.Ctx, c.ID))
	other := f.Record()
	_, err = f.Pool.Create(f.Ctx, other)
	f.CheckFails(err, dataset.ErrForbidden)
	f.CheckAbsent(other.ID)
	own.Key, own.Err = right, nil
}

// checkGrowthWithoutKey checks that a call that grows an encrypted dataset without the key either succeeds, or fails
// and changes nothing.
func (f *fixture) checkGrowthWithoutKey(d dataset.Dataset, s dataset.Snapshot, own *Keys) {
	f.Helper()
	r, can := f.Pool.(backends.Resizer)
	if !can {
		return
	}
	right, none := treetest.Bytes(23, 64), dataset.Errorf(dataset.ErrForbidden, "no key")
	size := func() int64 {
		own.Key, own.Err = right, nil
		m := f.Mount(d.ID)
		defer m.Unmount()
		total, _ := f.Space(m)
		return total
	}
	for _, wrong := range []Keys{{Key: right, Err: none}, {Key: treetest.Bytes(29, 64)}} {
		had := size()
		own.Key, own.Err = wrong.Key, wrong.Err
		more := dataset.Size(had) + little
		err := r.Resize(f.Ctx, d.ID, more, nil)
		if err != nil {
			f.CheckFails(err, dataset.ErrForbidden)
		}
		big := f.Record()
		big.Size = more
		if _, cErr := f.Pool.Clone(f.Ctx, big, f.Source(s), nil); cErr != nil {
			f.CheckFails(cErr, dataset.ErrForbidden)
			f.CheckAbsent(big.ID)
		}
		if has := size(); (err == nil) != (has > had) {
			f.Errorf("resize without its key: %v; it had %d bytes and has %d", err, had, has)
		}
		f.OK(f.Pool.Delete(f.Ctx, big.ID))

		own.Key, own.Err = right, nil
		had, m := size(), f.Mount(d.ID)
		own.Key, own.Err = wrong.Key, wrong.Err
		err = r.Resize(f.Ctx, d.ID, more+little/2, m.Root)
		own.Key, own.Err = right, nil
		m.Unmount()
		att, aErr := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
		if f.OK(aErr); err != nil {
			f.CheckFails(err, dataset.ErrForbidden)
			f.Same("Grow of the mount, after a refused resize", att.Mount.Grow, false)
		}
		f.OK(att.Release())
		if has := size(); (err == nil) != (has > had) {
			f.Errorf("resize in use without its key: %v; it had %d bytes and has %d", err, had, has)
		}
	}
}

// checkCloneKeys checks that a clone of an encrypted snapshot is refused if its record names another key.
func (f *fixture) checkCloneKeys(s dataset.Snapshot) {
	f.Helper()
	other := f.Record()
	other.Encryption.ID = uuid.New()
	_, err := f.Pool.Clone(f.Ctx, other, f.Source(s), nil)
	f.CheckFails(err, dataset.ErrInvalid)
	f.CheckAbsent(other.ID)
	other.Encryption = nil // claims that the clone is not encrypted
	_, err = f.Pool.Clone(f.Ctx, other, f.Source(s), nil)
	f.CheckFails(err, dataset.ErrInvalid)
	f.CheckAbsent(other.ID)
}
