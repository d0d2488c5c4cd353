package move_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
)

// inNamespace runs a script in a new mount namespace, and returns when the script writes ready. The script reads
// commands from tell, until the command end.
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

// A copy of the host's mount that nobody can reach, which any user can make, does not prevent a move.
func TestMoveDespiteACopyOfTheMount(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "dir")
	f.A.NewVolume("db", nil)
	f.A.MustMount("db", "web")
	_, _, end := inNamespace(t, `exec setpriv --reuid=65534 --regid=65534 --clear-groups unshare -Urm sh -c "echo ready; read -r line || true"`)
	f.A.MustUnmount("db", "web")
	f.Move("db", f.B)
	if err := end(); err != nil {
		t.Error(err)
	}
}

// A volume is not relinquished while a process has it mounted in another mount namespace or has a file of it open,
// even if the agent has recorded the end of its use: the process may still write.
func TestI1MoveOfDatasetHeldInAnotherNamespace(t *testing.T) {
	const mounted = `mount --bind "$0" "$1"; umount "$0"; echo ready; read -r line; echo late >"$1/token"; echo written; read -r line || true`
	// The container passes the open file to a process of the host, and ends.
	const handed = `mount --bind "$0" "$1"; exec 3>"$1/token"
		exec nsenter --mount="/proc/$2/ns/mnt" sh -ec "echo ready; read -r line; echo late >&3; echo written; read -r line || true"`
	for _, c := range []struct{ name, backend, script string }{
		{"dir", "dir", mounted},
		{"nfs", "nfs", mounted},
		{"dir, a file handed over", "dir", handed},
		{"nfs, a file handed over", "nfs", handed},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := agenttest.NewCluster(t, c.backend, c.backend)
			f.A.NewVolume("db", nil)
			path, in := f.A.MustMount("db", "web"), t.TempDir()
			tell, said, end := inNamespace(t, c.script, path, in, strconv.Itoa(os.Getpid()))
			f.A.MustUnmount("db", "web")
			op := f.AwaitEnd(f.BeginMove("db", f.B))
			words := in
			if c.script == handed {
				words = "head/token open inside of it"
			}
			if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code || !strings.Contains(op.Problem.Message, words) {
				t.Errorf("%s: %+v", op.State, op.Problem)
			}
			_, err := tell.Write([]byte("\n"))
			if err == nil {
				_, err = said.Read(make([]byte, 8))
			}
			if err := errors.Join(err, end()); err != nil {
				t.Fatal(err)
			}
			f.Move("db", f.B)
			f.B.WantFile("db", "token", "late\n")
		})
	}
}

// After a volume left the share, the pool of the former home still has data of it. That data is not taken for the
// volume when the volume returns from another pool of the share.
func TestMoveBackToAShare(t *testing.T) {
	f := agenttest.NewCluster(t, "nfs", "dir")
	c := f.AddHost("host-c", "nfs")
	c.Start()
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "left")
	f.Move("db", f.B)
	f.Move("db", c)
	c.WriteFile("db", "token", "acknowledged")
	if e, err := f.A.Pool().Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != 1 {
		t.Fatalf("nothing was left: %+v, %v", e, err)
	}
	f.Move("db", f.A)
	if got := f.A.ReadFile("db", "token"); got != "acknowledged" {
		t.Fatalf("it came back with %q", got)
	}
	c.AwaitSettled(d.ID)
	if e, err := c.Pool().Stat(t.Context(), d.ID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("it lies there too: %+v, %v", e, err)
	}
	if v := f.Recorded("db"); v.Home != f.A.Node() || v.Epoch != 4 {
		t.Errorf("on record: %+v", v.Dataset)
	}
}
