package mount

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// If the look takes too long, each process that was not read counts as a possible holder.
func TestElsewhereIsBounded(t *testing.T) {
	cmd := exec.Command("unshare", "--mount", "cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the process is in its namespace now
		t.Fatal(err)
	}
	look, err := readForeign(0)
	require.NoError(t, err)
	for _, h := range look.Holders(Filesystem{Major: 4095, Root: "/"}, "") {
		if h.PID == cmd.Process.Pid && errors.Is(h.Unexamined, ErrScanTimeout) {
			return
		}
	}
	t.Errorf("process %d is no possible holder", cmd.Process.Pid)
}
