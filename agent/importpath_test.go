package agent

import (
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// imported is what becomes of an import of a folder.
func (r *rig) imported(volume, path string) (op dataset.Operation) {
	r.t.Helper()
	out, err := r.link.Service.Submit(r.t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpImport, Volume: volume, Path: path, Live: true})
	if err != nil {
		r.t.Fatal(err)
	}
	await(r.t, func() bool {
		op, _ = r.known(r.t.Context(), out.Operation.ID)
		return op.State.Final()
	})
	return op
}

// A mount in a folder is not left out without a word; the folder may be one itself.
func TestImportOfWhatHasMounts(t *testing.T) {
	r := newRig(t)
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
	if op := r.imported("all", src); op.Problem == nil || op.Problem.Code != "invalid" || !strings.Contains(op.Problem.Message, sub) {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if op := r.imported("sub", sub); op.State != dataset.OpDone {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
}

// A folder that the pool itself lies in is refused: the copy would never end.
func TestImportOfWhatHoldsThePool(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{r.root, r.root + "/pool"} {
		op := r.imported("all", path)
		if op.Problem == nil || op.Problem.Code != "invalid" || !strings.Contains(op.Problem.Message, "pool default") {
			t.Errorf("%s: %s, %+v", path, op.State, op.Problem)
		}
		if left := r.inPool("incoming"); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}
