package operation_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", sub, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	links, bound, beside := elsewhere+"/links", elsewhere+"/bound", elsewhere+"/beside"
	for _, dir := range []string{links, bound, beside, r.Root + "/pool/inner", r.MountRoot() + "/some"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"root": r.Root, "parent": filepath.Dir(r.Root), "inner": r.Root + "/pool/inner"} {
		if err := os.Symlink(to, links+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(from string, then func()) {
		t.Helper()
		if err := unix.Mount(from, bound, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		then()
		// The job closes the folder after its operation has ended.
		if err := unix.Unmount(bound, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
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
	if err != nil {
		t.Fatal(err)
	}
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
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
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
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if op := imported(r, "all", link); op.Problem == nil || op.Problem.Code != "invalid" {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
}
