package mount

import (
	"errors"
	"os/exec"
	"testing"
)

// If the look takes too long, each process that was not read counts as a possible holder.
func TestElsewhereIsBounded(t *testing.T) {
	cmd := exec.Command("unshare", "--mount", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range look.Holders(Filesystem{Major: 4095, Root: "/"}, "") {
		if h.PID == cmd.Process.Pid && errors.Is(h.Unexamined, ErrScanTimeout) {
			return
		}
	}
	t.Errorf("process %d is no possible holder", cmd.Process.Pid)
}
