package agenttest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Await waits until a condition is true, for a minute at most. Use it for conditions that become true soon and send no
// notification.
func Await(t *testing.T, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("the condition is still false after a minute")
		}
	}
}

// AwaitNamed is Await. If it fails, the message contains the name of the condition.
func (c *Cluster) AwaitNamed(what string, is func() bool) {
	c.Helper()
	for until := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			c.Fatalf("still false after a minute: %s", what)
		}
	}
}

// Advance moves the clock, and has the agent check the uses of its volumes if that is due.
func (h *Host) Advance(d time.Duration) {
	h.T.Helper()
	h.FakeClock.Advance(d)
	h.Verifier.CheckIfDue(h.T.Context())
}

// WantUses expects that each of these IDs uses a dataset once, and that the dataset is mounted if there is an ID.
func (h *Host) WantUses(d dataset.Dataset, ids ...string) {
	h.T.Helper()
	rec := h.Uses.Get(d.ID)
	for _, id := range ids {
		if rec.IDs[id].Count != 1 {
			h.T.Errorf("use %s is counted %d times, want 1", id, rec.IDs[id].Count)
		}
	}
	mounted, err := host.IsMountPoint(h.MountPath(d.ID))
	if len(rec.IDs) != len(ids) || mounted != (len(ids) > 0) || err != nil {
		h.T.Errorf("uses %v, mounted %t, %v; want uses %v", rec.IDs, mounted, err, ids)
	}
}

// CallsByName makes the calls that look up a volume by its name, and returns the error of each by the name of the call.
func (h *Host) CallsByName(spelling string) map[string]error {
	ctx := h.T.Context()
	_, get := h.Get(ctx, spelling)
	_, path := h.Path(ctx, spelling)
	_, mount := h.Mount(ctx, spelling, "id")
	return map[string]error{"get": get, "path": path, "mount": mount}
}

// findings returns the findings of doctor about a subject.
func (h *Host) findings(subject string) (list []api.Finding) {
	h.T.Helper()
	found, err := h.Doctor(h.T.Context())
	require.NoError(h.T, err)
	for _, f := range found {
		if f.Subject == subject {
			list = append(list, f)
		}
	}
	return list
}

// Finding returns the finding of doctor about a subject.
func (h *Host) Finding(subject string) api.Finding {
	h.T.Helper()
	list := h.findings(subject)
	if len(list) == 0 {
		h.T.Fatalf("doctor has no finding about %s", subject)
	}
	return list[0]
}

// DatasetFinding returns what doctor finds about a dataset, with the remedies, or "".
func (h *Host) DatasetFinding(d dataset.Dataset) (text string) {
	h.T.Helper()
	for _, f := range h.findings("dataset " + d.ID.String()) {
		text += f.Text + " (" + f.Fix + ")"
	}
	return text
}

// StoreFinding returns the errors that doctor finds about the store, or "".
func (h *Host) StoreFinding() (text string) {
	h.T.Helper()
	for _, f := range h.findings("store") {
		if f.Level == api.LevelError {
			text += f.Text
		}
	}
	return text
}

// PoolStatus returns the status of a pool.
func (h *Host) PoolStatus(pool string) dataset.PoolStatus {
	h.T.Helper()
	p, ok := h.Pools.ByName(pool)
	if !ok {
		h.T.Fatalf("there is no pool %s", pool)
	}
	for _, st := range h.Pools.Status(h.T.Context()) {
		if st.ID == p.ID {
			return st
		}
	}
	h.T.Fatalf("pool %s has no status", pool)
	return dataset.PoolStatus{}
}

// ListPool lists a folder of the pool of a host that is alone.
func (h *Host) ListPool(area string) (names []string) {
	h.T.Helper()
	entries, err := os.ReadDir(filepath.Join(h.Root, "pool", area))
	require.NoError(h.T, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// SavePool copies a pool. The returned function replaces the pool by the copy; the agent must be stopped then.
func (h *Host) SavePool(folder string) (putBack func()) {
	h.T.Helper()
	pool, kept := filepath.Join(h.Root, folder), h.T.TempDir()
	replace := func(to, from string) {
		err := os.RemoveAll(to)
		if err == nil {
			err = os.CopyFS(to, os.DirFS(from))
		}
		if err == nil {
			err = os.Chmod(to, 0o700)
		}
		require.NoError(h.T, err)
	}
	replace(kept, pool)
	return func() { replace(pool, kept) }
}

// NewIncoming makes a dataset that is incoming, as after a create that a crash interrupted before the commit.
func (h *Host) NewIncoming() dataset.Dataset {
	h.T.Helper()
	d := dataset.Dataset{
		ID: uuid.New(), Volume: "cut", State: dataset.StateReady, Epoch: 1, Home: h.NodeID, Pool: h.Pool().ID(),
	}
	_, err := h.Pool().Create(h.T.Context(), d)
	require.NoError(h.T, err)
	return d
}

// MountExt4 mounts an ext4 where a dataset would be mounted, until the end of the test, and returns its root.
func (h *Host) MountExt4(id uuid.UUID) *os.File {
	h.T.Helper()
	at := h.MountPath(id)
	require.NoError(h.T, os.MkdirAll(at, 0o700))
	root, err := os.Open(scratch.Mount(h.T, "ext4", scratch.Ext4))
	require.NoError(h.T, err)
	h.T.Cleanup(func() { _ = root.Close() })
	require.NoError(h.T, mount.Bind(root, at, mount.BindFlags{}))
	h.T.Cleanup(func() { _ = mount.Unmount(at) })
	return root
}

// PutToken writes the file token of a mounted volume.
func (h *Host) PutToken(path, text string) {
	h.T.Helper()
	assert.NoError(h.T, os.WriteFile(filepath.Join(path, "token"), []byte(text), 0o600))
}

// WantToken expects the content of the file token of a mounted volume.
func (h *Host) WantToken(path, want string) {
	h.T.Helper()
	if got, err := os.ReadFile(filepath.Join(path, "token")); err != nil || string(got) != want {
		h.T.Errorf("%s reads %q, %v; want %q", h.NodeName, got, err, want)
	}
}

// CanWrite reports whether a file can be written in a mounted volume within a time.
func CanWrite(t *testing.T, path string, most time.Duration) bool {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(path, "written"), []byte("x"), 0o600) }()
	select {
	case err := <-done:
		assert.NoError(t, err)
		return err == nil
	case <-time.After(most):
		t.Cleanup(func() { // a test that failed may not have thawed the volume
			scratch.Thaw(path)
			select {
			case err := <-done:
				t.Log(err)
			case <-time.After(10 * time.Second):
				t.Log("the write has not ended")
			}
		})
		return false
	}
}

// AwaitSettled waits until a host that was the home of a dataset has finished its part of the move. The host then has a
// copy without a head or, if its pool is on a share, no data.
func (h *Host) AwaitSettled(id uuid.UUID) {
	h.T.Helper()
	Await(h.T, func() bool {
		_, given := h.Leases.Relinquished(id)
		_, kept := h.Cache.Copy(id)
		e, err := h.Pool().Stat(h.T.Context(), id)
		if h.Cluster.Share != "" {
			_, known := h.Cache.Dataset(id)
			return !kept && !given && !known && errors.Is(err, dataset.ErrNotFound)
		}
		return kept && !given && err == nil && e.State == backends.EntryCopy && !e.Promoted
	})
}

// WouldOpen reports whether the agent would mount a dataset for a new user.
func (h *Host) WouldOpen(id uuid.UUID) bool {
	a := h.Answering()
	if h.Fuse.Blown() {
		return false
	}
	d, home := a.Cache.Dataset(id)
	if !home {
		return false
	}
	if _, err := a.MayMount(d, 0); err != nil {
		return false
	}
	p, ok := a.Pools.ByName("default")
	if !ok || p.Storage == nil {
		return false
	}
	e, err := p.Storage.Stat(a.Ctx, id)
	return err == nil && e.State != backends.EntryCopy
}

// ReadSnapshot reads a file of a snapshot.
func (h *Host) ReadSnapshot(d dataset.Dataset, snapshot uuid.UUID, file string) string {
	h.T.Helper()
	root, release, err := h.TransferSource.OpenSnapshot(h.T.Context(), h.Pool(), d, snapshot)
	require.NoError(h.T, err)
	text := make([]byte, 64)
	fd, err := unix.Openat(int(root.Fd()), file, unix.O_RDONLY, 0)
	n := 0
	if err == nil {
		n, err = unix.Read(fd, text)
		unix.Close(fd)
	}
	assert.NoError(h.T, errors.Join(err, root.Close(), release()))
	return string(text[:max(n, 0)])
}

// KeptCopy returns the first recorded copy of volume db, or the zero value.
func (c *Cluster) KeptCopy() api.CopyDetail {
	c.Helper()
	for _, k := range c.Recorded("db").CopyDetails {
		return k
	}
	return api.CopyDetail{}
}

// ReplicaTimes returns when the snapshot of the only replica of a volume was taken, and when it was last compared.
func (c *Cluster) ReplicaTimes(volume string) (taken, checked time.Time) {
	v := c.Recorded(volume)
	if len(v.CopyDetails) != 1 || v.CopyDetails[0].Kind != dataset.CopyReplica ||
		v.CopyDetails[0].Snapshot == uuid.Nil {
		return taken, checked
	}
	return v.CopyDetails[0].Taken, v.CopyDetails[0].VerifiedAt
}

// ReplicaTimeOn returns when the snapshot of the replica on a host was taken.
func (c *Cluster) ReplicaTimeOn(h *Host, volume string) (taken time.Time) {
	for _, k := range c.Recorded(volume).CopyDetails {
		if k.Node == h.Node() && k.Kind == dataset.CopyReplica {
			taken = k.Taken
		}
	}
	return taken
}

// ReplicaHasSince reports whether the replica of a volume on a host has everything that was written before the given
// time. The snapshot of the replica may be older than that time, because no new snapshot is taken while nothing is
// written.
func (c *Cluster) ReplicaHasSince(h *Host, volume string, written time.Time) bool {
	return slices.ContainsFunc(c.Recorded(volume).CopyDetails, func(k api.CopyDetail) bool {
		return k.Node == h.Node() && k.Kind == dataset.CopyReplica && k.Snapshot != uuid.Nil &&
			k.VerifiedAtHome.After(written)
	})
}
