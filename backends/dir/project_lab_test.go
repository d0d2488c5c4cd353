//go:build lab

package dir_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// holding mounts a disk whose filesystem enforces the limits of projects.
func holding(t *testing.T, fs string) string {
	t.Helper()
	make := []string{"mkfs.xfs", "-q", "-K", "-f"}
	if fs == "ext4" {
		make = []string{
			"mkfs.ext4", "-q", "-F", "-O", "project,quota", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
		}
	}
	return mounting(t, fs, "prjquota", make...)
}

func mounting(t *testing.T, fs, options string, make ...string) string {
	t.Helper()
	disk := inside.Disk(t, "quota")
	if out, err := exec.Command(make[0], append(make[1:], disk)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", make[0], err, out)
	}
	path := t.TempDir()
	require.NoError(t, unix.Mount(disk, path, fs, 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Errorf("%v: open on it are %q", err, openOn(path))
		}
	})
	return path
}

// openOn lists the processes that have files of a filesystem open, with the files.
func openOn(path string) (found []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, path) {
			found = append(found, link+" -> "+to)
		}
	}
	return found
}

// below returns a factory of pools on one disk.
func below(disk string) backendtest.Factory[*testing.T] {
	return on(func(t *testing.T) string {
		path := filepath.Join(disk, uuid.NewString())
		require.NoError(t, os.Mkdir(path, 0o700))
		t.Cleanup(func() {
			assert.NoError(t, os.RemoveAll(path))
		})
		return path
	})
}

// kinds returns the filesystems on which the suite runs. ext4 is only in the long form, because other tests cover the
// differences.
func kinds() []string {
	if long.Enabled() {
		return []string{"xfs", "ext4"}
	}
	return []string{"xfs"}
}

func TestProjectSuite(t *testing.T) {
	for _, fs := range kinds() {
		t.Run(fs, func(t *testing.T) { backendtest.Run(t, "dir", below(holding(t, fs))) })
	}
}

// C1 for the steps that set projects and limits.
func TestProjectC1StoppedAtEveryStep(t *testing.T) {
	for _, fs := range kinds() {
		crashing.Run(t, fs, below(holding(t, fs)), crashes())
	}
}

// A volume of 256 MiB is full at 256 MiB ± 3 %, and returns the error that the pool declares. df in the volume shows
// that. Neither the neighbouring volume nor its snapshots count.
func TestProjectVolumeIsFullAtItsSize(t *testing.T) {
	for fs, full := range map[string]error{"xfs": unix.ENOSPC, "ext4": unix.EDQUOT} {
		t.Run(fs, func(t *testing.T) {
			const size = 256 * dataset.MiB
			b := openBench(t, holding(t, fs))
			if !strings.Contains(b.pool.Info().Note,
				"gets "+map[error]string{unix.ENOSPC: "ENOSPC", unix.EDQUOT: "EDQUOT"}[full]) {
				t.Errorf("the note is %q", b.pool.Info().Note)
			}
			other := b.made(dataset.Dataset{ID: uuid.New(), Size: size})
			b.d = b.made(dataset.Dataset{ID: uuid.New(), Size: size})
			at := b.mounted()
			var st unix.Statfs_t
			b.ok(unix.Statfs(at, &st))
			if total := dataset.Size(st.Blocks) * dataset.Size(st.Bsize); total != size {
				t.Errorf("df shows %s", total)
			}
			_, err := fill(at, "half", size/2)
			b.ok(err)
			b.ok(mount.Unmount(at))
			s := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
			b.ok(b.pool.Snapshot(t.Context(), s, nil))
			at = b.mounted()
			b.ok(os.Remove(filepath.Join(at, "half")))
			written, err := fill(at, "fill", dataset.GiB)
			if !errors.Is(err, full) || written < size*97/100 || written > size*103/100 {
				t.Errorf("full at %s: %v", written.Human(), err)
			}
			used, err := b.pool.Used(t.Context(), b.d.ID)
			b.ok(err)
			if used < size*97/100 || used > size*103/100 {
				t.Errorf("%s are used", used.Human())
			}
			beside := *b
			beside.d = other
			if _, err := fill(beside.head(), "fill", size/2); err != nil {
				t.Errorf("the volume beside it: %v", err)
			}
			err = b.pool.(backends.Resizer).Resize(t.Context(), b.d.ID, size/2, nil)
			if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "delete some of it first") {
				t.Errorf("made smaller than what is there: %v", err)
			}
			b.ok(mount.Unmount(at))
			b.ok(b.pool.DeleteSnapshot(t.Context(), b.d.ID, s.ID))
		})
	}
}

// fill writes a file as a container does, and returns the number of bytes for which there is room.
func fill(at, name string, most dataset.Size) (written dataset.Size, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)      // the file is closed by then, so its filesystem can be unmounted
		runtime.LockOSThread() // never unlocked: the thread has lost the capability, and ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err = unix.Capget(&header, &caps[0]); err != nil {
			return
		}
		caps[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
		if err = unix.Capset(&header, &caps[0]); err == nil {
			written, err = write(filepath.Join(at, name), most)
		}
	}()
	<-done
	return written, err
}

func write(path string, most dataset.Size) (written dataset.Size, err error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for err == nil && written < most {
		var n int
		n, err = file.Write(buf)
		written += dataset.Size(n)
	}
	return written, errors.Join(err, file.Sync(), file.Close())
}

// openBench opens a pool below a directory.
func openBench(t *testing.T, parent string) *bench {
	b := &bench{T: t, path: filepath.Join(parent, "pool")}
	b.again()
	return b
}

func (b *bench) again() {
	b.Helper()
	pool, err := dir.Backend{}.Open(b.Context(), backends.Config{Name: "test", Path: b.path, Make: true})
	b.ok(err)
	b.pool = pool
}

func (b *bench) made(d dataset.Dataset) dataset.Dataset {
	b.Helper()
	size, err := b.pool.Create(b.Context(), d)
	b.ok(err)
	b.ok(b.pool.Commit(b.Context(), d.ID))
	d.Size = size
	return d
}

// mounted binds the head to another directory, as the agent does.
func (b *bench) mounted() string {
	b.Helper()
	at := b.TempDir()
	src, err := os.Open(b.head())
	b.ok(err)
	defer src.Close()
	b.ok(mount.Bind(src, at, mount.BindFlags{NoDev: true}))
	b.Cleanup(func() { _ = unix.Unmount(at, 0) })
	return at
}

// A project that another program uses, limits or has named is not assigned, and is not changed.
func TestProjectOfOthersIsNotTaken(t *testing.T) {
	disk := holding(t, "xfs")
	b := openBench(t, disk)
	b.d = b.made(dataset.Dataset{ID: uuid.New(), Size: 32 * dataset.MiB})
	first := b.project()
	root, err := os.Open(disk)
	b.ok(err)
	defer root.Close()
	b.ok(fsctl.LimitProject(root, first+1, 7<<20))
	b.ok(os.Mkdir(filepath.Join(disk, "theirs"), 0o700))
	theirs, err := os.Open(filepath.Join(disk, "theirs"))
	b.ok(err)
	defer theirs.Close()
	b.ok(fsctl.SetProject(theirs, first+2))
	b.again()
	b.d = b.made(dataset.Dataset{ID: uuid.New(), Size: 32 * dataset.MiB})
	if got := b.project(); got != first+3 {
		t.Errorf("project %d was taken, want %d", got, first+3)
	}
	if q, err := fsctl.ProjectQuota(root, first+1); err != nil || q.Limit != 7<<20 {
		t.Errorf("their limit is %+v, %v", q, err)
	}
	if q, err := fsctl.ProjectQuota(root, first+2); err != nil || q.Limit != 0 || q.Files != 1 {
		t.Errorf("their project has %+v, %v", q, err)
	}
}

// A limit is removed with the head whose record names the project. If a person moved a tree into a folder, the limit of
// that tree stays.
func TestProjectLimitGoesByTheRecord(t *testing.T) {
	disk := holding(t, "xfs")
	b := openBench(t, disk)
	other := b.made(dataset.Dataset{ID: uuid.New(), Size: 16 * dataset.MiB})
	b.d = other
	theirs, theirHead := b.project(), b.head()
	d := b.made(dataset.Dataset{ID: uuid.New(), Size: 32 * dataset.MiB})
	b.d = d
	first := b.project()
	s, keep := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}, dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	b.ok(b.pool.Snapshot(t.Context(), s, nil))
	b.ok(b.pool.Restore(t.Context(), d.ID, s.ID, keep, nil))
	second := b.project()
	limit := func(project uint32) uint64 {
		root, err := os.Open(disk)
		b.ok(err)
		defer root.Close()
		q, err := fsctl.ProjectQuota(root, project)
		b.ok(err)
		return q.Limit
	}
	if first == second || limit(first) != 0 || limit(second) != 32<<20 || limit(theirs) != 16<<20 {
		t.Errorf("restored, projects %d, %d and %d have limits of %d, %d and %d", first, second, theirs, limit(first),
			limit(second), limit(theirs))
	}
	folder := filepath.Dir(b.head())
	stray := filepath.Join(folder, "head-"+uuid.NewString())
	b.ok(os.Rename(theirHead, stray)) // as a person does who repairs a pool by hand
	_, err := b.pool.Reap(t.Context(), func(uuid.UUID) bool { return false })
	b.ok(err)
	if limit(theirs) != 16<<20 {
		t.Errorf("reaped, the other's limit is %d", limit(theirs))
	}
	b.ok(os.Mkdir(stray, 0o700))
	in, err := os.Open(stray)
	b.ok(err)
	b.ok(errors.Join(fsctl.SetProject(in, theirs), in.Close()))
	b.ok(b.pool.Delete(t.Context(), d.ID))
	if limit(second) != 0 || limit(theirs) != 16<<20 {
		t.Errorf("deleted, projects %d and %d have limits of %d and %d", second, theirs, limit(second), limit(theirs))
	}
}

func (b *bench) project() uint32 {
	b.Helper()
	head, err := os.Open(b.head())
	b.ok(err)
	defer head.Close()
	id, _, err := fsctl.Project(head)
	b.ok(err)
	return id
}

// On XFS too, the mount option is missing, not the support of the kernel.
func TestProjectQuotasOfXFSThatAreOff(t *testing.T) {
	b := openBench(t, mounting(t, "xfs", "", "mkfs.xfs", "-q", "-f"))
	if info := b.pool.Info(); !slices.Equal(info.Missing, []string{
		"sizes need project quotas (unmount its filesystem and mount it with -o prjquota, because a remount cannot enable it)",
	}) {
		t.Errorf("it misses %q", info.Missing)
	}
}

// A pool on a filesystem without limits works as a pool without sizes, and reports how to get them. A clone of a volume
// that was made before has a limit.
func TestProjectQuotasComeLater(t *testing.T) {
	at := mounting(t, "ext4", "", "mkfs.ext4", "-q", "-F", "-O", "project,quota", "-E",
		"nodiscard,lazy_itable_init=1,lazy_journal_init=1")
	b := openBench(t, at)
	if can := b.pool.Info().Capabilities; can.EnforcesSize || can.KnowsUsed || can.OnlineGrow || can.Shrink {
		t.Errorf("it declares %+v", can)
	}
	want := "sizes need project quotas (unmount its filesystem, tune2fs -O project,quota " + os.Getenv(inside.Variable("quota")) + ", mount it with -o prjquota)"
	if info := b.pool.Info(); !slices.Equal(info.Missing, []string{want}) ||
		!strings.Contains(info.Note, ": no size limits;") {
		t.Errorf("it says %q, and misses %q, want %q", info.Note, info.Missing, want)
	}
	_, err := b.pool.Create(t.Context(), dataset.Dataset{ID: uuid.New(), Size: dataset.GiB})
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "prjquota") {
		t.Errorf("a size: %v", err)
	}
	b.d = b.made(dataset.Dataset{ID: uuid.New()})
	b.write("before")
	b.ok(unix.Unmount(at, 0)) // a remount does not switch quotas on
	b.ok(unix.Mount(os.Getenv(inside.Variable("quota")), at, "ext4", 0, "prjquota"))
	b.again()
	resize := func(b *bench) error {
		return b.pool.(backends.Resizer).Resize(t.Context(), b.d.ID, 16*dataset.MiB, nil)
	}
	if err := resize(b); !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "clone it") {
		t.Errorf("a size for what was there before: %v", err)
	}
	c := dataset.Dataset{ID: uuid.New()}
	_, err = b.pool.Clone(t.Context(), c, dataset.Source{Dataset: b.d.ID}, nil)
	b.ok(err)
	b.d = c
	b.ok(resize(b))
	b.holds("before")
	if _, err := fill(b.head(), "fill", 32*dataset.MiB); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("more than fits: %v", err)
	}
}

// A pool on a share that only one host uses.
func TestOnNFS(t *testing.T) {
	at := inside.Serve(t, mounting(t, "xfs", "", "mkfs.xfs", "-q", "-K", "-f"))
	backendtest.Run(t, "dir", below(at), treetest.Attributes, treetest.ACLs)
}
