package scratch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// roleVar names the variable that says which of the three processes of Isolate this one is.
const roleVar = "DROVER_TEST_ROLE"

const (
	roleInit  = "init"
	roleTests = "tests"
)

// Isolate runs tests in a process with separate mount and process namespaces, after prepare has changed the mounts, and
// returns the exit status. When the tests have ended, also by a panic or a timeout, the kernel ends the processes that
// they started and removes their mounts. Everything that a test starts shares these namespaces, so an engine and a
// plugin see each other's mounts and processes as on a host.
//
// There are three processes. The one that `go test` started waits. The second is process 1 of the namespaces, and
// reaps orphans, as an init does. The third runs the tests. Isolate needs root.
func Isolate(prepare func() error, tests func() int) int {
	switch os.Getenv(roleVar) {
	case roleTests:
		return tests()
	case roleInit:
		return report(beInit(prepare))
	default:
		return report(runInside())
	}
}

// Isolated reports whether this process runs the tests of Isolate.
func Isolated() bool { return os.Getenv(roleVar) == roleTests }

func report(status int, err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests in separate namespaces:", err)
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
func beInit(prepare func() error) (int, error) {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return 0, fmt.Errorf("mount /proc: %w", err)
	}
	if err := prepare(); err != nil {
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
