// Package lab runs tests in a virtual machine: a Debian kernel under QEMU, with features that the kernels of
// development machines may lack (device mapper, project quotas, an NFS server, cgroup v2). It does not use KVM,
// so it is slow. It shows that things work, but hardly how fast they are.
//
// scripts/lab.sh makes the root filesystem that it boots. The table in table.go says which tests run there: a new test
// needs an entry there. Package inside describes their environment. Only the tests of this package call it (`make
// lab`). A [VM] owns the process of QEMU and the connection to the guest. One goroutine at a time uses it, so it has no
// lock.
package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// bootsWithin is much longer than a boot takes on an idle machine.
const bootsWithin = 3 * time.Minute

// Disk is an empty disk of the machine. Tests find it by its name.
type Disk struct {
	Name string
	Size int64
}

// Options describe the machine.
type Options struct {
	Dir     string // shared with the machine, as inside.Share
	Disks   []Disk
	Systemd bool // systemd is the init process, and the machine can be reset; otherwise only the test runs
	// CPUs is the number of CPUs; 0 means one. A machine with one CPU costs the host less than half as much as one
	// with two, because QEMU needs no locks and no calls between CPUs.
	CPUs int
}

// VM is a running machine.
type VM struct {
	proc    *child.Process
	port    net.Conn
	events  *json.Decoder
	console string
	log     string
	disks   []Disk
}

// Boot starts a machine, which ends with the test. Even if a signal kills the test, the machine does not keep
// running.
func Boot(t testing.TB, o Options) *VM {
	t.Helper()
	vm := begin(t, o)
	vm.up(t)
	return vm
}

// begin is Boot without waiting until the guest serves.
func begin(t testing.TB, o Options) *VM {
	t.Helper()
	files := runScript(t, "lab.sh")
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	build(t, "build", "-trimpath", "-ldflags=-s -w", "-o", guest, "./test/lab/guest")
	b, err := initramfs(guest, filepath.Join(files, "modules"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "initramfs"), b, 0o600)
	}
	require.NoError(t, err)
	vm := &VM{console: filepath.Join(dir, "console"), disks: o.Disks}
	line, reset := "", "-no-reboot"
	if o.Systemd {
		line, reset = " "+inside.Systemd, "-no-shutdown"
	}
	args := append(machine(files, dir, vm.console, line), "-smp", strconv.Itoa(max(1, o.CPUs)), reset)
	args = append(args, shared(o.Dir, inside.Share, "")...)
	args = append(args, shared(repository(t), inside.Source, ",readonly=on")...)
	for i, d := range o.Disks {
		image := filepath.Join(dir, d.Name+".disk")
		require.NoError(t, os.WriteFile(image, nil, 0o600))
		require.NoError(t, os.Truncate(image, d.Size))
		args = append(args, disk(image, serial(i), ",discard=unmap,detect-zeroes=unmap")...)
	}
	vm.start(t, args, filepath.Join(dir, "qemu.log"))
	return vm
}

// runScript runs a script and returns the folder that the script makes: the root filesystem and kernel to boot, or a
// layer.
func runScript(t testing.TB, script string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(repository(t), "scripts", script))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoErrorf(t, err, "scripts/%s", script)
	return strings.TrimSpace(string(out))
}

// build runs the go command in the root of the repository. The program that it builds needs nothing of this
// machine.
func build(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = repository(t), os.Environ()
	// the race detector requires C; every other program must run with any libraries
	if !slices.Contains(args, "-race") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func repository(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	require.NoError(t, err)
	return dir
}

func serial(i int) string { return fmt.Sprint("lab", i) }

// processor is a CPU without the features that are slow in QEMU: copying strings by bytes, and two more kinds of
// memory for the kernel only.
const processor = "max,la57=off,erms=off,fsrm=off,smap=off,smep=off"

// kernel is the command line of the kernel. QEMU finds translated code again by its address. With random
// addresses it translates every program again for each run, which takes twice as long as the run. The TSC is not
// used as a clock: on a busy host its frequency was measured as a sixth of the real one.
const kernel = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off norandmaps tsc=unstable " +
	"random.trust_cpu=on apparmor=0"

// race reports whether the race detector is enabled, which makes tests several times slower.
func race() bool { return os.Getenv("LAB_RACE") != "" }

// memory returns the size of the machine's memory. With 3 GiB the kernel has killed a test under the race
// detector.
func memory() string {
	if race() {
		return "8G"
	}
	return "3G"
}

// machine returns the options of QEMU for a PC that has only what a test uses.
func machine(files, dir, console, line string) []string {
	return append([]string{
		"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "pc,accel=tcg", "-cpu", processor, "-m", memory(),
		"-kernel", filepath.Join(files, "vmlinuz"), "-initrd", filepath.Join(dir, "initramfs"),
		"-append", kernel + line,
		"-serial", "file:" + console,
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,fd=3",
		"-device", "virtserialport,chardev=port,name=" + inside.Port,
	}, disk(filepath.Join(files, "root.img"), "root", ",snapshot=on")...)
}

// disk returns the options for a disk that loses nothing while the machine runs. It need not outlive the machine.
func disk(image, serial, more string) []string {
	return []string{
		"-drive", "if=none,format=raw,cache=unsafe,aio=threads,id=" + serial + ",file=" + image + more,
		"-device", "virtio-blk-pci,drive=" + serial + ",serial=" + serial,
	}
}

// shared returns the options for a folder that the guest mounts at a path.
func shared(dir, path, more string) []string {
	tag := filepath.Base(path)
	return []string{"-virtfs", "local,security_model=none,multidevs=remap,mount_tag=" + tag + ",path=" + dir + more}
}

// start starts QEMU, with one end of a socket for the port.
func (vm *VM) start(t testing.TB, args []string, log string) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, theirs := os.NewFile(uintptr(ends[0]), "port"), os.NewFile(uintptr(ends[1]), "port")
	defer ours.Close()
	defer theirs.Close()
	if vm.port, err = net.FileConn(ours); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.port.Close() })
	vm.events = json.NewDecoder(vm.port)
	// QEMU keeps what is written to the root in an unnamed file there.
	vm.proc, err = child.Start(child.Spec{
		Args: args,
		Log:  log,
		Keep: []*os.File{theirs},
		Env:  []string{"TMPDIR=" + os.TempDir()},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, vm.proc.End(unix.SIGKILL, time.Minute))
	})
	theirs.Close() // so that the port closes when QEMU ends
	vm.log = log
}

// up waits until the guest serves.
func (vm *VM) up(t testing.TB) {
	t.Helper()
	began := time.Now()
	for {
		e, err := vm.next(began.Add(bootsWithin))
		if err != nil {
			said, _ := os.ReadFile(vm.log)
			t.Fatalf("the lab's machine did not come up: %v\n%s\nits console:\n%s", err, said, vm.Console(40))
		}
		if e.Ready {
			t.Logf("the machine was up after %s", time.Since(began).Round(100*time.Millisecond))
			return
		}
	}
}

// Reset is the reset button: nothing is stopped, flushed or unmounted before the next boot.
func (vm *VM) Reset(t testing.TB) {
	t.Helper()
	c := inside.Command{Args: []string{"sh", "-c", "echo b >/proc/sysrq-trigger"}, Seconds: 60}
	require.NoError(t, json.NewEncoder(vm.port).Encode(c))
	vm.up(t)
}

func (vm *VM) next(deadline time.Time) (e inside.Event, err error) {
	if err := vm.port.SetReadDeadline(deadline); err != nil {
		return e, err
	}
	return e, vm.events.Decode(&e)
}

// Run runs a command in the machine and returns its exit status. It passes each line of the output to line. A
// command that does not end in time is killed, and the error says so. After any error the machine must not be
// used any more.
func (vm *VM) Run(ctx context.Context, c inside.Command, line func(string)) (int, error) {
	for i, d := range vm.disks {
		c.Disks = append(c.Disks, d.Name+"="+serial(i))
	}
	if err := json.NewEncoder(vm.port).Encode(c); err != nil {
		return -1, err
	}
	stop := context.AfterFunc(ctx, func() { _ = vm.port.SetReadDeadline(time.Now()) })
	defer stop()
	// The guest ends a command that hangs. Only a guest that hangs itself takes longer.
	deadline := time.Now().Add(time.Duration(c.Seconds)*time.Second + time.Minute)
	for ctx.Err() == nil {
		e, err := vm.next(deadline)
		switch {
		case err != nil:
			return -1, fmt.Errorf("the lab's machine is gone or hangs: %w", err)
		case e.Ended && e.Reason != "":
			return -1, fmt.Errorf("%s: %s", strings.Join(c.Args, " "), e.Reason)
		case e.Ended:
			return e.Exit, nil
		default:
			line(e.Line)
		}
	}
	return -1, ctx.Err()
}

// Console returns the end of the kernel's console output.
func (vm *VM) Console(lines int) string {
	b, err := os.ReadFile(vm.console)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(b), "\r", "")), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
