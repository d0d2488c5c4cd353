package guard_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// playEngine is an engine in a container that keeps its images on a volume. It mounts an overlay whose upper
// directory is on the volume, and starts a container that sees only the overlay. base is an empty folder
// outside of the volume.
func playEngine(source, base, log string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	volume, lower, merged := filepath.Join(base, "volume"), filepath.Join(base, "lower"), filepath.Join(base, "merged")
	for _, dir := range []string{volume, lower, merged, source + "/upper", source + "/work"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, volume, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, volume, volume)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return err
	}
	inner := exec.Command("/proc/self/exe", source, volume, filepath.Join(merged, "file"), log)
	inner.Env = append(os.Environ(), role+"=inner")
	inner.Stderr = os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return inner.Run()
}

// playInner writes to a file in a mount namespace without the volume.
func playInner(source, volume, file, log string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	for _, at := range []string{volume, source} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			return err
		}
	}
	// Other threads are still in the namespace of the engine: exec(2) ends them.
	if err := os.Setenv(role, "writer"); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", append(os.Args[:1:1], file, log), os.Environ())
}

// A container of an engine on a volume writes to the volume, though its namespace shows only an overlay.
func TestI1ThroughAnOverlay(t *testing.T) {
	w := newWorld(t)
	r := shared(t)
	log := filepath.Join(t.TempDir(), "log")
	begin(t, "engine", r.Paths[0], t.TempDir(), log)
	wrote(t, log, 0)
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	w.recheckedAfter(t, r.Dataset, e.Fence.At)
	silent(t, log, e)
}
