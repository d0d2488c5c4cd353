package nfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// anywhere accepts every folder as a folder of a share.
func anywhere(string) (string, error) { return "", nil }

func open(t *testing.T, share, host string) backends.Pool {
	t.Helper()
	p, err := nfs.Backend{Network: anywhere}.Open(t.Context(), backends.Config{
		Name: "share",
		Path: filepath.Join(share, host),
		Make: true,
	})
	require.NoError(t, err)
	return p
}

func head(t *testing.T, p backends.Pool, id uuid.UUID) string {
	t.Helper()
	a, err := p.Attach(t.Context(), id, backends.AttachOptions{})
	if err == nil {
		err = a.Release()
	}
	require.NoError(t, err)
	return a.Mount.Source
}

// write writes a file and its record as they are on the share after an agent has given up the dataset.
func write(t *testing.T, p backends.Pool, id uuid.UUID, text string) {
	t.Helper()
	f, err := os.Create(filepath.Join(head(t, p, id), "file"))
	if err == nil {
		_, err = f.WriteString(text)
	}
	require.NoError(t, errors.Join(err, f.Sync(), f.Close()))
}

func read(t *testing.T, p backends.Pool, id uuid.UUID) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(head(t, p, id), "file"))
	assert.NoError(t, err)
	return string(b)
}

func TestSuite(t *testing.T) {
	backendtest.Run(t, "folder", func(t *testing.T) (backends.Kind, backends.Config) {
		return nfs.Backend{Network: anywhere}, backends.Config{Name: "test", Path: filepath.Join(tmpfs(t), "pool")}
	})
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) {
	crashing.FailingCalls(t, "folder", func(t *testing.T) (backends.Kind, backends.Config) {
		return nfs.Backend{Network: anywhere}, backends.Config{Name: "test", Path: filepath.Join(tmpfs(t), "pool")}
	})
}

func tmpfs(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	require.NoError(t, unix.Mount("none", path, "tmpfs", 0, "size=1g"))
	t.Cleanup(func() {
		assert.NoError(t, unix.Unmount(path, 0))
	})
	return path
}

// The error for an encrypted dataset names the backend of the pool, although package dir makes the error.
func TestEncryptionIsRefused(t *testing.T) {
	p := open(t, t.TempDir(), "alpha")
	d := dataset.Dataset{ID: uuid.New(), Encryption: &dataset.Encryption{}}
	_, err := p.Create(t.Context(), d)
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "backend nfs cannot encrypt") {
		t.Error(err)
	}
}

// The whole dataset moves to the home of a later epoch, and a home of an earlier epoch cannot take it back.
func TestTake(t *testing.T) {
	share := t.TempDir()
	a, b := open(t, share, "alpha"), open(t, share, "beta")
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	_, err := a.Create(t.Context(), d)
	require.NoError(t, err)
	from := a
	take := func(p backends.Pool, epoch uint64) error {
		d := d
		d.Epoch = epoch
		return p.(backends.Sharer).Take(t.Context(), d, backends.PreviousHome{Pool: from.ID(), Epoch: 1})
	}
	write(t, a, d.ID, "kept") // incoming, as after a crash between the commit and the rename
	for range 2 {
		require.NoError(t, take(b, 2))
	}
	if got := read(t, b, d.ID); got != "kept" {
		t.Errorf("it holds %q", got)
	}
	if e, err := b.Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || e.Record.Epoch != 2 {
		t.Errorf("there it is %+v, %v", e, err)
	}
	if _, err := a.Stat(t.Context(), d.ID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("it is here too: %v", err)
	}
	from = b
	assert.ErrorIsf(t, take(a, 1), dataset.ErrConflict, "taken back at the epoch before")
	assert.ErrorIsf(t, take(b, 1), dataset.ErrConflict, "taken at the epoch before by who has it")
	d.ID = uuid.New()
	assert.ErrorIsf(t, take(a, 1), dataset.ErrNotFound, "what nobody has")
}

// If a volume left the share, its former home may still have old data of it in its pool. This data is not mistaken for
// the data that the last home gave up: neither by the node that has it nor by another node, and also not after the data
// of the last home is gone.
func TestTakeFromTheLastHomeAlone(t *testing.T) {
	for _, taker := range []string{"alpha", "delta"} {
		share := t.TempDir()
		pools := map[string]backends.Pool{}
		for _, host := range []string{"alpha", "gamma", "delta"} {
			pools[host] = open(t, share, host)
		}
		d := dataset.Dataset{ID: uuid.New()}
		lies := func(host string, epoch uint64, text string) {
			t.Helper()
			d.Epoch = epoch
			_, err := pools[host].Create(t.Context(), d)
			if err == nil {
				err = pools[host].Commit(t.Context(), d.ID)
			}
			require.NoError(t, err)
			write(t, pools[host], d.ID, text)
		}
		lies("alpha", 1, "left")
		d.Epoch = 4
		given := backends.PreviousHome{Pool: pools["gamma"].ID(), Epoch: 3}
		into := pools[taker].(backends.Sharer)
		if err := into.CheckVisible(t.Context(), d.ID, given.Pool); !errors.Is(err, dataset.ErrNotFound) {
			t.Errorf("%s sees what the last home has not: %v", taker, err)
		}
		want := dataset.ErrNotFound
		if taker == "alpha" {
			want = dataset.ErrConflict
		}
		assert.ErrorIsf(t, into.Take(t.Context(), d, given), want, "%s takes what the last home has not", taker)
		lies("gamma", 3, "acknowledged")
		assert.NoErrorf(t, into.CheckVisible(t.Context(), d.ID, given.Pool), "%s", taker)
		d.Epoch = 4
		err := into.Take(t.Context(), d, given)
		if taker == "alpha" { // its old data must be removed first
			if err == nil {
				t.Error("taken where the left one lies")
			}
			if got := read(t, pools["gamma"], d.ID); got != "acknowledged" {
				t.Errorf("the last home's holds %q", got)
			}
			require.NoError(t, pools[taker].Delete(t.Context(), d.ID))
			err = into.Take(t.Context(), d, given)
		}
		assert.NoErrorf(t, err, "%s", taker)
		if got := read(t, pools[taker], d.ID); got != "acknowledged" {
			t.Errorf("%s has %q", taker, got)
		}
	}
}

// A pool that is a separate mount, of another filesystem or of the same one, is refused before anything is made there.
// If a pool becomes a separate mount later, nothing is seen in it or taken from it, and its content stays as it is.
func TestPoolThatIsAMountOfItsOwn(t *testing.T) {
	refused := func(err error) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "plain folder") {
			t.Errorf("got %v", err)
		}
	}
	share := t.TempDir()
	a, b := open(t, share, "alpha"), open(t, share, "beta")
	for host, fs := range map[string]string{"other": "tmpfs", "same": ""} {
		at := filepath.Join(share, host)
		over(t, at, fs)
		_, err := nfs.Backend{Network: anywhere}.Open(t.Context(), backends.Config{Path: at, Make: true})
		refused(err)
		if names, err := os.ReadDir(at); err != nil || len(names) > 0 {
			t.Errorf("made: %q, %v", names, err)
		}
	}
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	_, err := a.Create(t.Context(), d)
	require.NoError(t, err)
	write(t, a, d.ID, "kept")
	off := over(t, filepath.Join(share, "alpha"), "")
	d.Epoch = 2
	given := backends.PreviousHome{Pool: a.ID(), Epoch: 1}
	into := b.(backends.Sharer)
	refused(into.CheckVisible(t.Context(), d.ID, a.ID()))
	refused(into.Take(t.Context(), d, given))
	if e, err := a.Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != 1 {
		t.Errorf("not taken, it is %+v, %v", e, err)
	}
	off()
	assert.NoError(t, errors.Join(into.CheckVisible(t.Context(), d.ID, a.ID()), into.Take(t.Context(), d, given)))
	if got := read(t, b, d.ID); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// over mounts a tmpfs, or the folder itself, over a folder, until the test ends or off is called.
func over(t *testing.T, at, fs string) (off func()) {
	t.Helper()
	var flags uintptr
	source := "none"
	if fs == "" {
		source, flags = at, unix.MS_BIND
	}
	require.NoError(t, errors.Join(os.MkdirAll(at, 0o755), unix.Mount(source, at, fs, flags, "")))
	off = sync.OnceFunc(func() {
		assert.NoError(t, unix.Unmount(at, 0))
	})
	t.Cleanup(off)
	return off
}

// If two pools have the same UUID, because a folder was copied, nothing is taken from either.
func TestTwoPoolsThatAreOne(t *testing.T) {
	share := t.TempDir()
	a, b := open(t, share, "alpha"), open(t, share, "beta")
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	if _, err := a.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	require.NoError(t, os.CopyFS(filepath.Join(share, "a-copy"), os.DirFS(filepath.Join(share, "alpha"))))
	d.Epoch = 2
	err := b.(backends.Sharer).Take(t.Context(), d, backends.PreviousHome{Pool: a.ID(), Epoch: 1})
	if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), filepath.Join(share, "a-copy")) {
		t.Errorf("taken from the one or the other: %v", err)
	}
}

// Removing a pool leaves the share and the pools of other hosts unchanged. A pool with a volume is not removed.
func TestPoolIsCleared(t *testing.T) {
	share := t.TempDir()
	a, b := open(t, share, "alpha"), open(t, share, "beta")
	mine, theirs := dataset.Dataset{ID: uuid.New(), Epoch: 1}, dataset.Dataset{ID: uuid.New(), Epoch: 1}
	for p, d := range map[backends.Pool]dataset.Dataset{a: mine, b: theirs} {
		_, err := p.Create(t.Context(), d)
		require.NoError(t, err)
		require.NoError(t, p.Commit(t.Context(), d.ID))
	}
	write(t, b, theirs.ID, "beta's")
	clear := a.(backends.Clearer).Clear
	if _, err := clear(t.Context()); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("with a volume: %v", err)
	}
	require.NoError(t, a.Delete(t.Context(), mine.ID))
	if left, err := clear(t.Context()); left != "" || err != nil {
		t.Errorf("left %q, %v", left, err)
	}
	if _, err := os.Lstat(filepath.Join(share, "alpha")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
	if got := read(t, b, theirs.ID); got != "beta's" {
		t.Errorf("the other host has %q", got)
	}
	if again := open(t, share, "alpha"); again.Info().Share != b.Info().Share {
		t.Error("it is another share")
	}
}

// A dataset that another host is making, and that has no record yet, is neither taken nor reaped by others.
func TestOthersAreLeftAlone(t *testing.T) {
	share := t.TempDir()
	a, b := open(t, share, "alpha"), open(t, share, "beta")
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	_, err := a.Create(t.Context(), d)
	require.NoError(t, err)
	if n, err := b.Reap(t.Context(), func(uuid.UUID) bool { return true }); n != 0 || err != nil {
		t.Errorf("reaped %d, %v", n, err)
	}
	require.NoError(t, os.Remove(filepath.Join(share, "alpha", "incoming", d.ID.String(), "record.json")))
	if err := b.(backends.Sharer).Take(t.Context(), d,
		backends.PreviousHome{Pool: a.ID()}); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("half of it was taken: %v", err)
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("its own pool has %+v, %v", list, err)
	}
}

// Hosts that use a new share at the same time agree on its UUID. A folder with other content is not a share, and a
// share whose file is damaged is not made again.
func TestWhichShare(t *testing.T) {
	share := t.TempDir()
	var ids [8]uuid.UUID
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i] = open(t, share, uuid.NewString()).Info().Share })
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == uuid.Nil {
			t.Errorf("shares %v", ids)
		}
	}
	if left, err := filepath.Glob(filepath.Join(share, "tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	fails := func(path string, want *dataset.Kind) {
		t.Helper()
		_, err := nfs.Backend{Network: anywhere}.Open(t.Context(), backends.Config{
			Path: filepath.Join(path, "alpha"),
			Make: true,
		})
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %s", err, want.Code)
		}
	}
	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "precious"), nil, 0o600))
	fails(other, dataset.ErrExists)
	if names, err := os.ReadDir(other); err != nil || len(names) != 1 {
		t.Errorf("it holds %v, %v", names, err)
	}
	require.NoError(t, os.WriteFile(filepath.Join(share, "share.json"), []byte("{"), 0o600))
	fails(share, dataset.ErrCorrupt)
	if err := os.WriteFile(filepath.Join(share, "share.json"), []byte(`{"format":2,"id":{"new":1}}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	fails(share, dataset.ErrUnsupported)
}

// A pool of a later format, which another host has on the share, is refused by its number: its datasets do not count as
// absent. The other pools of the share are not affected.
func TestB16LaterPoolOnShare(t *testing.T) {
	share := t.TempDir()
	alpha, beta, gamma := open(t, share, "alpha").(backends.Sharer), open(t, share, "beta"), open(t, share, "gamma")
	id := uuid.New()
	_, err := gamma.Create(t.Context(), dataset.Dataset{ID: id})
	require.NoError(t, err)
	marker := filepath.Join(share, "beta", "pool.json")
	require.NoError(t, os.WriteFile(marker, []byte(`{"format":2,"backend":"nfs","id":{"new":1}}`), 0o600))
	assert.ErrorIs(t, alpha.CheckVisible(t.Context(), uuid.New(), beta.ID()), dataset.ErrUnsupported)
	assert.NoErrorf(t, alpha.CheckVisible(t.Context(), id, gamma.ID()), "dataset in another pool")
}

// The tests run in a separate mount namespace. Otherwise a process that the tests of another package start would copy
// their mounts and keep them in use.
func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// The capability many_hosts: another host attaches a dataset in the pool of its home, mounted or not, and sees the same
// files. The attachment stays valid when the dataset is taken to another pool.
func TestVisit(t *testing.T) {
	share := t.TempDir()
	a, b, c := open(t, share, "alpha"), open(t, share, "beta"), open(t, share, "gamma")
	if !b.Info().Capabilities.ManyHosts {
		t.Error("not declared")
	}
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	if _, err := a.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	visit := func(p, at backends.Pool) (backends.Attachment, error) {
		return p.(backends.Sharer).Visit(t.Context(), d.ID, at.ID(), backends.AttachOptions{ReadOnly: true})
	}
	source := func(p, at backends.Pool) os.FileInfo {
		t.Helper()
		att, err := visit(p, at)
		require.NoError(t, err)
		defer func() {
			assert.NoError(t, att.Release())
		}()
		if m := att.Mount; m.FSType != "bind" || !m.Flags.ReadOnly || !m.Flags.NoDev {
			t.Errorf("%+v", m)
		}
		info, err := os.Stat(att.Mount.Source)
		require.NoError(t, err)
		return info
	}
	// The staged tree, before the dataset is moved to its place.
	own, err := os.Stat(filepath.Join(share, "alpha", "incoming", d.ID.String(), "head"))
	if err != nil || !os.SameFile(own, source(b, a)) {
		t.Errorf("it is another one: %v", err)
	}
	require.NoError(t, a.Commit(t.Context(), d.ID))
	if !os.SameFile(own, source(b, a)) || !os.SameFile(own, source(a, a)) {
		t.Error("it is another one")
	}
	if _, err := visit(b, c); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("where it is not: %v", err)
	}
	d.Epoch = 2
	require.NoError(t, c.(backends.Sharer).Take(t.Context(), d, backends.PreviousHome{Pool: a.ID(), Epoch: 1}))
	if _, err := visit(b, a); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("where it is no more: %v", err)
	}
	if !os.SameFile(own, source(b, c)) {
		t.Error("it is another one")
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("its own pool has %+v, %v", list, err)
	}
}

// If a host writes although an operator confirmed that it does not, it changes no snapshot: a restore keeps a copy of
// the old head, and removes the files that the host has open.
func TestRestoreByCopy(t *testing.T) {
	a := open(t, t.TempDir(), "alpha")
	d := dataset.Dataset{ID: uuid.New(), Epoch: 1}
	_, err := a.Create(t.Context(), d)
	require.NoError(t, err)
	write(t, a, d.ID, "old")
	s, keep := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}, dataset.Snapshot{
		ID:      uuid.New(),
		Dataset: d.ID,
		Kind:    dataset.SnapshotRestore,
	}
	require.NoError(t, a.Snapshot(t.Context(), s, nil))
	write(t, a, d.ID, "new")
	there, err := os.OpenRoot(head(t, a, d.ID)) // opened by the host that was cut off
	require.NoError(t, err)
	defer there.Close()
	file, err := there.OpenFile("file", os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	for range 2 {
		require.NoError(t, a.(backends.Sharer).RestoreByCopy(t.Context(), d.ID, s.ID, keep, nil))
		_, _ = file.WriteAt([]byte("spoilt"), 0) // fails on a share, and is lost on a disk
		if f, err := there.Create("another"); err == nil {
			t.Errorf("made %s where nobody looks", f.Name())
			_ = f.Close()
		}
		if got := read(t, a, d.ID); got != "old" {
			t.Errorf("the head holds %q", got)
		}
		c := dataset.Dataset{ID: uuid.New()}
		_, err := a.Clone(t.Context(), c, dataset.Source{Dataset: d.ID, Snapshot: keep.ID}, nil)
		require.NoError(t, err)
		if got := read(t, a, c.ID); got != "new" {
			t.Errorf("what was kept holds %q", got)
		}
		require.NoError(t, a.Delete(t.Context(), c.ID))
		write(t, a, d.ID, "old")
	}
	require.NoError(t, a.DeleteSnapshot(t.Context(), d.ID, keep.ID))
	if n, err := a.Reap(t.Context(), func(uuid.UUID) bool { return false }); n != 0 || err != nil {
		t.Errorf("%d things were left, %v", n, err)
	}
}
