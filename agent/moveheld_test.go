package agent

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// inNamespace runs a script in a mount namespace of its own, and returns when that says ready. It reads
// what it is told, until end.
func inNamespace(t *testing.T, script string, args ...string) (tell io.Writer, said io.Reader, end func() error) {
	t.Helper()
	c := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-ec", script}, args...)...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err = c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err == nil {
		_, err = said.Read(make([]byte, 6))
	}
	if err != nil {
		t.Fatal(err)
	}
	return in, said, func() error { return errors.Join(in.Close(), c.Wait()) }
}

// A volume that a process has in a mount namespace of its own, whose use has ended for the
// agent, is not given up: it may write there still.
func TestI1MoveOfWhatAnotherNamespaceHas(t *testing.T) {
	for _, backend := range []string{"dir", "nfs"} {
		t.Run(backend, func(t *testing.T) {
			f := newFlock(t, backend, backend)
			f.a.volume("db", nil)
			path, in := f.a.mounts("db", "web"), t.TempDir()
			tell, said, end := inNamespace(t, `mount --bind "$0" "$1"; umount "$0"; echo ready; read -r line; echo late >"$1/token"; echo written; read -r line || true`, path, in)
			f.a.unmounts("db", "web")
			op := f.ended(f.begins("db", f.b))
			if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code || !strings.Contains(op.Problem.Message, in) {
				t.Errorf("%s: %+v", op.State, op.Problem)
			}
			_, err := tell.Write([]byte("\n"))
			if err == nil {
				_, err = said.Read(make([]byte, 8))
			}
			if err := errors.Join(err, end()); err != nil {
				t.Fatal(err)
			}
			f.moves("db", f.b)
			if got := f.b.reads("db", "token"); got != "late\n" {
				t.Errorf("it arrived with %q", got)
			}
		})
	}
}

// What a home has left in its pool, when its volume went off the share, is not taken for the
// volume when that comes back to it from another pool of the share.
func TestMoveBackToAShare(t *testing.T) {
	f := newFlock(t, "nfs", "dir")
	c := f.host("host-c", "nfs")
	c.up()
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "left")
	f.moves("db", f.b)
	f.moves("db", c)
	c.writes("db", "token", "acknowledged")
	if e, err := f.a.thePool().Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != 1 {
		t.Fatalf("nothing was left: %+v, %v", e, err)
	}
	f.moves("db", f.a)
	if got := f.a.reads("db", "token"); got != "acknowledged" {
		t.Fatalf("it came back with %q", got)
	}
	c.settled(d.ID)
	if e, err := c.thePool().Stat(t.Context(), d.ID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("it lies there too: %+v, %v", e, err)
	}
	if v := f.record("db"); v.Home != f.a.Node() || v.Epoch != 4 {
		t.Errorf("on record: %+v", v.Dataset)
	}
}
