package backup_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
)

// gate makes each backup wait. wait returns the PID of restic once a backup waits, and pass lets that backup continue.
func gate(t *testing.T) (wait func() (pid string), pass func()) {
	t.Helper()
	at := wrapped(t, `echo $$ >$D/new && mv $D/new $D/pid; read x <$D/gate`)
	must(t, unix.Mkfifo(filepath.Join(at, "gate"), 0o600))
	open, err := os.OpenFile(filepath.Join(at, "gate"), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { _ = open.Close() })
	wait = func() (pid string) {
		t.Helper()
		agenttest.Await(t, func() bool {
			text, err := os.ReadFile(filepath.Join(at, "pid"))
			pid = strings.TrimSpace(string(text))
			return err == nil
		})
		must(t, os.Remove(filepath.Join(at, "pid")))
		return pid
	}
	return wait, func() {
		t.Helper()
		_, err := open.WriteString("\n")
		must(t, err)
	}
}

// background starts a program that prints a line once it is ready, and ends it at the end of the test.
func background(t *testing.T, name string, args ...string) (end func()) {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	end = func() {
		_ = unix.Kill(-c.Process.Pid, unix.SIGKILL)
		_ = c.Wait()
	}
	t.Cleanup(end)
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return end
}

// mountsOf returns the mount table of a process.
func mountsOf(t *testing.T, pid string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	must(t, err)
	return string(text)
}

// Only restic sees the clone. So no process that copies the host's mounts meanwhile keeps it, whether it is of a user
// without rights or a container that sees the mounts of the host. And restic keeps no volume mounted: when another
// volume is unmounted, its loop device is free.
func TestOnlyResticSeesTheClone(t *testing.T) {
	for _, backend := range []string{"loop", "btrfs"} {
		for _, propagation := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
			t.Run(fmt.Sprintf("%s/%x", backend, propagation), func(t *testing.T) {
				f := agenttest.NewCluster(t, backend, "loop")
				must(t, unix.Mount(f.A.Root, f.A.Root, "", unix.MS_BIND, ""))
				must(t, unix.Mount("", f.A.Root, "", propagation, ""))
				t.Cleanup(func() { must(t, unix.Unmount(f.A.Root, unix.MNT_DETACH)) })
				newRepository(t, f)
				for _, name := range []string{"db", "before", "after"} {
					f.A.NewVolume(name)
				}
				// A container shows the volume elsewhere. That mount ends in restic's namespace too, if the host shares it.
				elsewhere, shown := filepath.Join(f.A.Root, "elsewhere"), f.A.MustMount("before", "user")
				if propagation == unix.MS_SHARED {
					must(t, os.Mkdir(elsewhere, 0o700))
					must(t, unix.Mount(shown, elsewhere, "", unix.MS_BIND, ""))
				}
				wait, pass := gate(t)
				before := mountsOf(t, "self")
				op := begin(f, "db", "")
				pid := wait()
				if now := mountsOf(t, "self"); now != before {
					t.Errorf("the mounts of the host were\n%sand are\n%s", before, now)
				}
				if target := " " + filepath.Join(f.A.MountRoot(), backup.DataName) + " "; !strings.Contains(mountsOf(t, pid), target) {
					t.Errorf("restic does not see%s", target)
				}
				f.A.MustMount("after", "user")
				if propagation == unix.MS_SHARED {
					must(t, unix.Unmount(elsewhere, 0))
				}
				for _, name := range []string{"before", "after"} { // the first one was mounted when restic began
					d, _ := f.A.Cache.Volume(name)
					f.A.MustUnmount(name, "user")
					agenttest.Await(t, func() bool {
						devices, err := loopdev.List()
						must(t, err)
						for _, device := range devices {
							if strings.Contains(device.Backing, d.ID.String()) {
								return false
							}
						}
						return true
					})
				}
				for range 3 {
					background(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm",
						"sh", "-c", "echo; exec sleep 1000")
				}
				background(t, "unshare", "-m", "--propagation=slave", "sh", "-c", `mount --rbind / "$0" && echo && exec sleep 1000`,
					t.TempDir())
				background(t, "nsenter", "--target="+pid, "--mount", "sh", "-c", "echo; exec sleep 1000") // as root can
				pass()
				if op = awaitEnd(f, op); op.State != dataset.OpDone {
					t.Errorf("the backup is %s: %+v", op.State, op.Problem)
				}
				wantNothingLeft(f.A)
			})
		}
	}
}

// A clone that somebody holds stops no backup. Doctor names the holder, at most three such clones of a volume stay, and
// the sweep removes them later.
func TestHeldClone(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	f.A.NewVolume("db@free")
	wait, pass := gate(t)
	var ends []func()
	for range 3 {
		op := begin(f, "db", "")
		ends = append(ends, background(t, "nsenter", "--target="+wait(), "--mount", "sh", "-c",
			`cd "$0" && echo && exec sleep 1000`, filepath.Join(f.A.MountRoot(), backup.DataName)))
		pass()
		if op = awaitEnd(f, op); op.State != dataset.OpDone {
			t.Fatalf("the backup is %s: %+v", op.State, op.Problem)
		}
	}
	op := awaitEnd(f, begin(f, "db", ""))
	if want := "the clones of 3 earlier backups cannot be removed: "; op.State != dataset.OpFailed ||
		!strings.Contains(op.Problem.Message, want) || op.Problem.Code != dataset.ErrInUse.Code {
		t.Errorf("a fourth backup is %s: %+v, want %s", op.State, op.Problem, want)
	}
	if got := f.A.Finding("volume db").Text; !strings.Contains(got, "(sleep)") || !strings.Contains(got, "takes up to ") {
		t.Errorf("doctor says %q, want the process sleep and the space", got)
	}
	ends[0]()
	op = begin(f, "db", "")
	wait()
	pass()
	if op = awaitEnd(f, op); op.State != dataset.OpDone {
		t.Errorf("the next backup is %s: %+v", op.State, op.Problem)
	}
	ends[1]()
	ends[2]()
	f.A.Backups.Sweep(t.Context())
	wantNothingLeft(f.A)
	if got := f.A.DatasetFinding(dataset.Dataset{}); got != "" {
		t.Errorf("doctor says %q", got)
	}
}

// A repository that accepts connections and says nothing does not delay backups to another one. Its backups end with an
// error, and doctor names it.
func TestSilentRepository(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.Stop()
	f.A.Config.StallLimit = 5 * time.Second
	f.A.Start()
	newRepository(t, f)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	good, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	_, err = f.Service.AddRepository(t.Context(), api.NewRepository{
		Name: "silent", URL: "rest:https://" + silent.Addr().String() + "/repository", Password: good.Password,
	})
	must(t, err)
	var ops []dataset.Operation
	for i := range 3 {
		name := fmt.Sprintf("v%d", i)
		f.A.NewVolume(name + "@free")
		if i < 2 { // as many as may use one repository
			ops = append(ops, backUpTo(f, name, "silent"))
		}
	}
	for range ops {
		connection, err := silent.Accept()
		must(t, err)
		defer connection.Close()
	}
	if op := awaitEnd(f, backUpTo(f, "v2", "offsite")); op.State != dataset.OpDone {
		t.Errorf("the backup to the other repository is %s: %+v", op.State, op.Problem)
	}
	const want = "it does not answer: restic neither received nor sent anything for 5s"
	for _, op := range ops {
		if op = awaitEnd(f, op); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, want) {
			t.Errorf("the backup is %s: %+v, want %s", op.State, op.Problem, want)
		}
	}
	if got := f.A.Finding("repository silent").Text; !strings.Contains(got, want) {
		t.Errorf("doctor says %q, want %s", got, want)
	}
}
