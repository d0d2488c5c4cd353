package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVar names the variable that says which of the three processes of a test run this one is; see Main.
const roleVar = "DROVER_TEST_ROLE"

const (
	roleInit  = "init"
	roleTests = "tests"
)

// Main runs the tests of a package that starts engines. A package calls it from its TestMain:
//
//	func TestMain(m *testing.M) { engine.Main(m) }
//
// The tests run in a process with separate mount and process namespaces, in which /run/docker and /run/containerd are
// empty. This has three effects. Only the engines of this process see a plugin that a test starts, so it may have any
// driver name. No test sees the plugins, containers or containerd of the machine. When the tests have ended, also by a
// panic or a timeout, the kernel ends the processes that they started and removes their mounts. Everything that a test
// starts shares these namespaces, so an engine and a plugin see each other's mounts and processes as on a host.
//
// There are three processes. The one that `go test` started waits. The second is process 1 of the namespaces, and
// reaps orphans, as an init does. The third runs the tests.
//
// Main needs root, and ends the process.
func Main(m *testing.M) {
	switch os.Getenv(roleVar) {
	case roleTests:
		os.Exit(m.Run())
	case roleInit:
		os.Exit(report(beInit()))
	default:
		os.Exit(report(runInside()))
	}
}

func report(status int, err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine tests:", err)
		return 1
	}
	return status
}

// rerun returns a command that runs this program again, with the same arguments, in another role.
func rerun(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// runInside starts process 1 of new namespaces and returns its exit status.
func runInside() (int, error) {
	// The child ends with the thread that started it. Only the main thread lives as long as the process.
	runtime.LockOSThread()
	cmd := rerun(roleInit)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID,
		// Go makes all mounts private in an unshared mount namespace (golang.org/issue/19661).
		Unshareflags: unix.CLONE_NEWNS,
		Pdeathsig:    unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cannot make namespaces (these tests need root): %w", err)
	}
	defer forwardSignals(cmd.Process)()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if status := cmd.ProcessState.ExitCode(); status >= 0 {
		return status, nil
	}
	return 0, err
}

// forwardSignals forwards to a process the signals that `go test` sends at a timeout, until stop is called. The
// terminal sends SIGINT to all three processes itself.
func forwardSignals(p *os.Process) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGQUIT, unix.SIGTERM, unix.SIGINT)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := range signals {
			if s != unix.SIGINT {
				_ = p.Signal(s)
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-ended
	}
}

// beInit is process 1: it runs the tests, reaps every process that ends, and returns the exit status of the
// tests. When it ends, the kernel kills the processes that are left (pid_namespaces(7)).
func beInit() (int, error) {
	if err := prepareMounts(); err != nil {
		return 0, err
	}
	cmd := rerun(roleTests)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer forwardSignals(cmd.Process)()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == cmd.Process.Pid && status.Signaled():
			return 0, fmt.Errorf("the tests were ended by %v", status.Signal())
		case pid == cmd.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}

// Volatile returns a folder in memory that the tests of this process share. It disappears with them.
func Volatile() (string, error) {
	if os.Getenv(roleVar) != roleTests {
		return "", errors.New("engine.Volatile needs func TestMain(m *testing.M) { engine.Main(m) } in this package")
	}
	return "/run/docker", nil
}

// prepareMounts mounts /proc of this namespace, and hides what engines and their plugins would share otherwise:
// the sockets of plugins, a system-wide containerd (dockerd uses one if it finds it), and the sockets of shims.
func prepareMounts() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range []string{"/run/docker", "/run/containerd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	return os.MkdirAll("/run/docker/plugins", 0o755)
}
