package faults

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// TestVerify checks what a pool claims, with the real command, on a pool that is being served. doctor names what a
// killed command leaves, and the next one removes it.
func TestVerify(t *testing.T) {
	const at = "RootIsEmptyAndOwned"
	h := host.Start(t, host.Options{Pool: "dir", Size: 16 << 30})
	h.Must(t, "volume", "create", "mine")
	volumes := h.Must(t, "volume", "ls", "-q")

	p := until(t, h, at)
	if r := h.Exec(t, "backend", "verify", "default"); r.Exit != 1 || !strings.Contains(r.Err, "is already being "+
		"verified") {
		t.Errorf("a second one: exit %d: %s", r.Exit, r.Err)
	}
	require.NoError(t, p.cmd.Process.Kill())
	<-p.said
	_ = p.cmd.Wait()
	if f := left(t, h); !strings.Contains(f.Fix, "drover backend verify default") {
		t.Errorf("the mend is %q", f.Fix)
	}
	if r := h.Exec(t, "volume", "ls", "-q"); strings.TrimSpace(r.Out) != volumes {
		t.Errorf("volumes are %q, were %q", r.Out, volumes)
	}
	var r verify.Report
	h.JSON(t, &r, "backend", "verify", "default") // removes what was left
	if !r.OK || len(r.Capabilities) == 0 || len(r.Cases) != verify.Count() || len(r.Times) == 0 {
		t.Errorf("it found %+v", r)
	}
	nothingLeft(t, h)
	h.Must(t, "volume", "rm", "mine")
	h.Clean(t, "backend ")
}

// verifying is a running verify command.
type verifying struct {
	cmd  *exec.Cmd
	said chan string
}

// until starts a verify and waits until it is at a case.
func until(t *testing.T, h *host.Host, at string) *verifying {
	t.Helper()
	cmd := exec.Command(host.Binary(t), "--api", h.API(), "backend", "verify", "default")
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &verifying{cmd, make(chan string, 1)}
	reached := make(chan bool, 1)
	go func() {
		var all []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			all = append(all, lines.Text())
			if strings.HasSuffix(lines.Text(), ": "+at) {
				reached <- true
			}
		}
		reached <- false
		p.said <- strings.Join(all, "\n")
	}()
	select {
	case ok := <-reached:
		if !ok {
			t.Fatalf("it never reached %s: %s", at, <-p.said)
		}
	case <-time.After(5 * time.Minute):
		t.Fatalf("it did not reach %s", at)
	}
	return p
}

// sandboxes returns the findings of doctor about remaining sandboxes.
func sandboxes(t *testing.T, h *host.Host) []api.Finding {
	t.Helper()
	return slices.DeleteFunc(h.Findings(t), func(f api.Finding) bool { return !strings.Contains(f.Text, "drover backend verify") })
}

// left expects that doctor names a remaining sandbox after its process has ended.
func left(t *testing.T, h *host.Host) api.Finding {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		f := sandboxes(t, h)
		if len(f) == 1 && f[0].Level == "warning" {
			return f[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("doctor says %+v", f)
		}
	}
}

// nothingLeft searches for folders, mounts and loop devices of a verify.
func nothingLeft(t *testing.T, h *host.Host) {
	t.Helper()
	if f := sandboxes(t, h); len(f) > 0 {
		t.Errorf("doctor says %+v", f)
	}
	found, err := filepath.Glob(filepath.Join(h.Root, "pool*", "drover-verify-*"))
	more, mErr := filepath.Glob(filepath.Join(h.Root, "pools", "*", "drover-verify-*"))
	if found = append(found, more...); err != nil || mErr != nil || len(found) > 0 {
		t.Errorf("left: %q, %v, %v", found, err, mErr)
	}
	loops, err := loopdev.List()
	require.NoError(t, err)
	for _, l := range loops {
		if strings.Contains(l.Backing, "drover-verify-") {
			t.Errorf("left: %s of %s", l.Path, l.Backing)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), "drover-verify-") {
		t.Errorf("left mounted: %v", err)
	}
}
