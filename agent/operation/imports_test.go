package operation_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// imported imports a folder, and returns the ended operation.
func imported(r *agenttest.Host, volume, path string) (op dataset.Operation) {
	r.T.Helper()
	out, err := r.Link.Service.Submit(r.T.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpImport, Volume: volume, Path: path, Live: true})
	if err != nil {
		r.T.Fatal(err)
	}
	agenttest.Await(r.T, func() bool {
		op, _ = r.Runner.Lookup(r.T.Context(), out.Operation.ID)
		return op.State.Final()
	})
	return op
}

// A mount inside the folder is not skipped silently. The folder itself may be a mount.
func TestImportRefusesMountsInFolder(t *testing.T) {
	r := agenttest.New(t)
	src := t.TempDir()
	sub := src + "/sub"
	require.NoError(t, os.Mkdir(sub, 0o755))
	require.NoError(t, unix.Mount("none", sub, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() {
		if err := unix.Unmount(sub, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if op := imported(r, "all", src); op.Problem == nil || op.Problem.Code != "invalid" || !strings.Contains(op.Problem.Message, sub) {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if op := imported(r, "sub", sub); op.State != dataset.OpDone {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
}

// A folder that contains a pool or the agent's root, or is inside one, is refused, by whichever path it is reached:
// the copy would not end, or would contain data of another volume. Nothing is left.
func TestI6ImportRefusesDroversFolders(t *testing.T) {
	r := agenttest.New(t)
	elsewhere, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	links, bound, beside := elsewhere+"/links", elsewhere+"/bound", elsewhere+"/beside"
	for _, dir := range []string{links, bound, beside, r.Root + "/pool/inner", r.MountRoot() + "/some"} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	for name, to := range map[string]string{"root": r.Root, "parent": filepath.Dir(r.Root), "inner": r.Root + "/pool/inner"} {
		require.NoError(t, os.Symlink(to, links+"/"+name))
	}
	bind := func(from string, then func()) {
		t.Helper()
		require.NoError(t, unix.Mount(from, bound, "", unix.MS_BIND, ""))
		then()
		// The job closes the folder after its operation has ended.
		require.NoError(t, unix.Unmount(bound, unix.MNT_DETACH))
	}
	refused := func(path, says string) {
		t.Helper()
		op := imported(r, "all", path)
		if op.Problem == nil || op.Problem.Code != "invalid" || !strings.Contains(op.Problem.Message, says) {
			t.Errorf("%s: %s, %+v", path, op.State, op.Problem)
		}
		if left := r.ListPool("incoming"); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	pool, root := "pool default (at "+r.Root+"/pool)", "the folder "+r.Root
	refused(r.Root+"/pool", pool+" is inside ")
	refused(r.Root, pool+" is inside "+r.Root)
	refused(filepath.Dir(r.Root), pool+" is inside ")
	refused("/", " is inside / (import folders of it")
	refused(r.Root+"/pool/inner", r.Root+"/pool/inner is inside "+pool)
	refused(r.MountRoot()+"/some", " is inside "+root)
	refused(links+"/root/pool/inner", "is inside "+pool)
	refused(links+"/parent/"+filepath.Base(r.Root), pool+" is inside ")
	bind(filepath.Dir(r.Root), func() {
		refused(bound, pool+" is inside "+bound)
		refused(bound+"/"+filepath.Base(r.Root), pool+" is inside ")
	})
	bind(r.Root+"/pool/inner", func() { refused(bound, bound+" is inside "+pool) })
	bind(beside, func() {
		if op := imported(r, "beside", bound); op.State != dataset.OpDone {
			t.Errorf("a folder beside them: %s, %+v", op.State, op.Problem)
		}
	})
}

// A path may go through a symbolic link of root's, such as /var/run, but not through a link that another user can
// change: that user would choose what root reads.
func TestI6ImportThroughLinks(t *testing.T) {
	r := agenttest.New(t)
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	const user = 65534
	var errs []error
	for _, dir := range []string{"real/data", "secret/data", "theirs"} {
		errs = append(errs, os.MkdirAll(filepath.Join(top, dir), 0o755))
	}
	errs = append(errs,
		os.WriteFile(top+"/real/data/file", []byte("meant"), 0o600),
		os.WriteFile(top+"/secret/data/file", []byte("secret"), 0o600),
		os.Symlink("real", top+"/link"), os.Symlink("../secret", top+"/theirs/dir"),
		os.Lchown(top+"/theirs/dir", user, user), os.Chown(top+"/theirs", user, user))
	require.NoError(t, errors.Join(errs...))
	if op := imported(r, "meant", top+"/link/data"); op.State != dataset.OpDone {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	op := imported(r, "secret", top+"/theirs/dir/data")
	if op.Problem == nil || op.Problem.Code != "invalid" || !strings.Contains(op.Problem.Message, top+"/theirs/dir is a symbolic link") {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if left := r.ListPool("incoming"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The folder with the given name is imported, and not the target of a symbolic link with that name.
func TestI6ImportOfALink(t *testing.T) {
	r := agenttest.New(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("another's"), 0o600))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	if op := imported(r, "all", link); op.Problem == nil || op.Problem.Code != "invalid" {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
}

// A damaged archive is an error of its sender: the answer has a status of 4xx, and nothing of the volume stays.
func TestI6ImportOfADamagedArchive(t *testing.T) {
	r := agenttest.New(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "file", Mode: 0o600, Size: 3 << 10}))
	if _, err := w.Write(bytes.Repeat([]byte("drover"), 512)); err != nil {
		t.Fatal(err)
	}
	require.NoError(t, w.Close())
	whole := archive.Bytes()
	flipped := bytes.Clone(whole)
	flipped[100] ^= 1
	for name, c := range map[string]struct {
		sent io.Reader
		says string
	}{
		"a flipped bit":    {bytes.NewReader(flipped), "invalid tar header"},
		"cut in a file":    {bytes.NewReader(whole[:2<<10]), "is damaged or truncated"},
		"without its end":  {bytes.NewReader(whole[:len(whole)-1024]), "no end mark"},
		"compressed":       {strings.NewReader("\x1f\x8b\x08\x00" + strings.Repeat("x", 4096)), "not a tar archive"},
		"empty":            {strings.NewReader(""), "no end mark"},
		"no tar at all":    {strings.NewReader(strings.Repeat("SELECT 1;\n", 100)), "not a tar archive"},
		"sender went away": {io.MultiReader(bytes.NewReader(whole[:600]), iotest.ErrReader(io.ErrUnexpectedEOF)), "the archive ended early"},
	} {
		_, err := r.Import(t.Context(), api.Request{ID: uuid.New(), Volume: "db"}, c.sent)
		if !errors.Is(err, dataset.ErrInvalid) || dataset.KindOf(err).HTTP/100 != 4 || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v (%v)", name, err, dataset.KindOf(err))
		}
		if left := r.ListPool("incoming"); len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// An archive is imported with the operation ID that its caller chose. An ID that belongs to another operation is
// refused.
func TestImportUsesTheCallersOperationID(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	var archive bytes.Buffer
	require.NoError(t, tar.NewWriter(&archive).Close())
	used, err := r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpCreate, Volume: "db"})
	require.NoError(t, err)
	req := api.Request{ID: used.Operation.ID, Volume: "new"}
	if _, err := r.Import(ctx, req, bytes.NewReader(archive.Bytes())); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("with an ID that is used: %v", err)
	}
	req.ID = uuid.New()
	d, err := r.Import(ctx, req, bytes.NewReader(archive.Bytes()))
	if err != nil || d.Request != req.ID {
		t.Errorf("made by %s, want %s: %v", d.Request, req.ID, err)
	}
}

// atCommit is a control that calls a function before it commits.
type atCommit struct {
	api.Service
	do func()
}

func (c atCommit) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.do()
	return c.Service.Commit(ctx, node, r)
}

// I2: all of an import is on the disk before it is recorded, on backends whose volumes are folders of the pool's
// filesystem. The test copies the disk as it is, without the data that is only in memory.
func TestI2ImportSurvivesAPowerCut(t *testing.T) {
	for backend, of := range map[string]struct {
		kind   backends.Kind
		fstype string
		size   int64
	}{"dir": {dir.Backend{}, "ext4", scratch.Ext4}, "btrfs": {btrfs.New(), "btrfs", scratch.Btrfs}} {
		t.Run(backend, func(t *testing.T) {
			disk := scratch.Image(t, of.fstype, of.size)
			target := filepath.Join(scratch.MountImage(t, of.fstype, disk), "pool")
			cut := filepath.Join(t.TempDir(), "cut")
			r := agenttest.New(t, func(cfg *agent.Config) {
				cfg.Control = atCommit{cfg.Control, func() { scratch.Copy(t, disk, cut) }}
				cfg.Pools = []pool.Config{{Name: "default", Backend: backend, Path: target}}
				cfg.Backends = backends.NewRegistry(of.kind)
			})
			text := strings.Repeat("imported ", 1000)
			d, err := r.Import(t.Context(), api.Request{Volume: "db"}, archiveOf(t, "token", text))
			require.NoError(t, err)
			found, err := filepath.Glob(filepath.Join(scratch.MountImage(t, of.fstype, cut), "pool", "*", d.ID.String(), "*", "token"))
			if err != nil || len(found) != 1 {
				t.Fatalf("after the cut there is %v, %v", found, err)
			}
			if b, err := os.ReadFile(found[0]); err != nil || string(b) != text {
				t.Errorf("after the cut it holds %d bytes of %d, %v", len(b), len(text), err)
			}
		})
	}
}

// An import that does not fit in an overcommitted pool ends before it fills the pool, because the writers of other
// volumes would lose the data that they have not synced.
func TestImportDoesNotFillPool(t *testing.T) {
	r := newLoopHost(t, 4)
	r.NewVolume("other", map[string]string{"size": "600MiB"})
	f, err := os.Create(filepath.Join(r.MustMount("other", "user"), "f"))
	require.NoError(t, err)
	_, err = f.Write(bytes.Repeat([]byte("x"), 400<<20))
	require.NoError(t, errors.Join(err, f.Sync(), f.Close()))
	p, _ := r.Pools.ByName("default")
	free := func() dataset.Size {
		st, err := r.Pools.ReadStatus(t.Context(), p.ID)
		require.NoError(t, err)
		return st.Free
	}
	before := free()
	least := before
	const size = 700 << 20
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o600, Size: size}))
	content := readerFunc(func(b []byte) (int, error) {
		least = min(least, free())
		for i := range b {
			b[i] = 'x'
		}
		return len(b), nil
	})
	archive := io.MultiReader(&head, io.LimitReader(content, size), bytes.NewReader(make([]byte, 1024)))
	_, err = r.Import(t.Context(), api.Request{Volume: "db", Options: map[string]string{"size": "900MiB"}}, archive)
	if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "would be free in its pool") {
		t.Errorf("import: %v", err)
	}
	if least = min(least, free()); least < 8*dataset.MiB {
		t.Errorf("%s were free meanwhile, of %s before", least.Human(), before.Human())
	}
	if _, there := r.Cache.Volume("db"); there {
		t.Error("the volume exists")
	}
}

// An import of many files without bytes leaves the other volumes of a pool inodes for theirs.
func TestImportLeavesInodes(t *testing.T) {
	const inodes = 2048
	disk := scratch.Image(t, "ext4", 64<<20)
	scratch.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-N", strconv.Itoa(inodes), disk)
	at := scratch.MountImage(t, "ext4", disk)
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(dir.Backend{})
		c.Pools = []pool.Config{{Name: "default", Backend: "dir", Path: filepath.Join(at, "pool")}}
	})
	r.NewVolume("other")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := range inodes {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeReg, Mode: 0o600}))
	}
	require.NoError(t, w.Close())
	_, err := r.Import(t.Context(), api.Request{Volume: "db"}, &archive)
	if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "has hardly any inodes left") {
		t.Errorf("import: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
