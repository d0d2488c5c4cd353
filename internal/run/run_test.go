package run_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) {
	if os.Getenv(stopsCommand) != "" {
		runStopped()
	}
	goleak.VerifyTestMain(m)
}

func do(t *testing.T, c run.Command) (run.Result, error) {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	var sys run.System
	return sys.Run(t.Context(), c)
}

func sh(script string, args ...string) run.Command {
	return run.Command{Name: "sh", Args: append([]string{"-c", script, "sh"}, args...)}
}

func TestOutputIsKeptApart(t *testing.T) {
	res, err := do(t, sh("echo out; echo err >&2"))
	if err != nil || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" {
		t.Fatalf("got %q, %q, %v", res.Stdout, res.Stderr, err)
	}
}

func TestArgumentsAreNotInterpreted(t *testing.T) {
	arg := "a b; $(touch /nope) *\n\"'"
	res, err := do(t, run.Command{Name: "printf", Args: []string{"%s", arg}})
	if err != nil || string(res.Stdout) != arg {
		t.Fatalf("got %q, %v", res.Stdout, err)
	}
}

func TestLocaleIsC(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	res, err := do(t, sh(`echo "$LC_ALL"`))
	if err != nil || string(res.Stdout) != "C\n" {
		t.Fatalf("got %q, %v", res.Stdout, err)
	}
}

func TestStdin(t *testing.T) {
	c := run.Command{Name: "cat", Stdin: strings.NewReader("in")}
	if res, err := do(t, c); err != nil || string(res.Stdout) != "in" {
		t.Fatalf("got %q, %v", res.Stdout, err)
	}
	if res, err := do(t, run.Command{Name: "cat"}); err != nil || len(res.Stdout) != 0 {
		t.Fatalf("without stdin: got %q, %v", res.Stdout, err)
	}
}

func TestStdoutToWriter(t *testing.T) {
	var out bytes.Buffer
	c := run.Command{Name: "head", Args: []string{"-c", "5000000", "/dev/zero"}, Stdout: &out}
	if res, err := do(t, c); err != nil || out.Len() != 5000000 || len(res.Stdout) != 0 {
		t.Fatalf("got %d and %d bytes, %v", out.Len(), len(res.Stdout), err)
	}
}

func TestErrorTellsAll(t *testing.T) {
	_, err := do(t, sh("echo first >&2; echo second >&2; exit 7"))
	var e *run.Error
	if !errors.As(err, &e) || e.ExitCode != 7 || e.Cmd != "sh" || e.Stderr != "first\nsecond\n" {
		t.Fatalf("got %#v", err)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("no exit error inside of %v", err)
	}
	if msg := err.Error(); strings.Contains(msg, "\n") || !strings.HasSuffix(msg, "exit status 7: first; second") {
		t.Errorf("got message %q", msg)
	}
}

func TestErrorIsShort(t *testing.T) {
	_, err := do(t, sh("yes ääää | head -c 1000000 >&2; echo reason >&2; exit 1"))
	if msg := err.Error(); len(msg) > 600 || !strings.HasSuffix(msg, "reason") {
		t.Errorf("got %d bytes: %q", len(msg), msg)
	}
	var e *run.Error
	if errors.As(err, &e); len(e.Stderr) > run.MaxStderr {
		t.Errorf("kept %d bytes of stderr", len(e.Stderr))
	}
}

func TestTooMuchOutput(t *testing.T) {
	c := run.Command{Name: "head", Args: []string{"-c", "5000000", "/dev/zero"}}
	res, err := do(t, c)
	if !errors.Is(err, run.ErrOutput) || len(res.Stdout) != run.MaxStdout {
		t.Fatalf("got %d bytes, %v", len(res.Stdout), err)
	}
}

func TestNoTimeoutIsRefused(t *testing.T) {
	var sys run.System
	if _, err := sys.Run(t.Context(), run.Command{Name: "true"}); err == nil ||
		!strings.Contains(err.Error(), "no timeout") {
		t.Fatalf("got %v", err)
	}
}

func TestMissingProgram(t *testing.T) {
	_, err := do(t, run.Command{Name: "no-such-program-here"})
	var e *run.Error
	if !errors.As(err, &e) || e.ExitCode != -1 || !errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

// The grandchild has the pipe open. If only the shell were killed, the grandchild would continue to run.
func TestTimeoutKillsTheWholeGroup(t *testing.T) {
	c := sh("sleep 1000 & echo $!; wait")
	c.Timeout = 200 * time.Millisecond
	res, err := do(t, c)
	require.ErrorIs(t, err, run.ErrTimeout)
	// The signal was sent when Run returns. On a busy machine, the process ends a little later.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(res.Stdout)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("grandchild lives: %s", stat)
		}
	}
}

func TestCancelGivesItsCause(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = r.Read(make([]byte, 1))
		cancel(cause)
		_, _ = io.Copy(io.Discard, r)
	}()
	c := sh("echo; sleep 1000")
	c.Timeout, c.Stdout = time.Minute, w
	var sys run.System
	_, err := sys.Run(ctx, c)
	w.Close()
	require.ErrorIs(t, err, cause)
}

// cancelled runs a script with Interrupt, and cancels it as soon as it has written a line.
func cancelled(t *testing.T, script string, interrupt time.Duration) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var buf bytes.Buffer
	c := sh(script)
	c.Timeout, c.Interrupt = time.Minute, interrupt
	c.Stdout = writerFunc(func(p []byte) (int, error) {
		cancel()
		return buf.Write(p)
	})
	var sys run.System
	_, err = sys.Run(ctx, c)
	return buf.String(), err
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestInterruptLetsACommandCleanUp(t *testing.T) {
	out, err := cancelled(t, `trap 'echo cleaned; exit 0' INT; echo started; while :; do sleep 0.05; done`, time.Minute)
	if out != "started\ncleaned\n" || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %q, %v", out, err)
	}
}

func TestCommandThatIgnoresTheInterruptIsKilled(t *testing.T) {
	out, err := cancelled(t, `trap '' INT; echo started; while :; do sleep 0.05; done`, 100*time.Millisecond)
	if out != "started\n" || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %q, %v", out, err)
	}
}

func TestWorkingDirectory(t *testing.T) {
	res, err := do(t, run.Command{Name: "pwd", Args: []string{"-P"}, Dir: "/usr"})
	if err != nil || string(res.Stdout) != "/usr\n" {
		t.Fatalf("got %q, %v", res.Stdout, err)
	}
}

// A write to a frozen filesystem waits in state D, which no signal ends.
func TestStuckInTheKernel(t *testing.T) {
	mnt := scratch.Mount(t, "ext4", scratch.Ext4)
	dir, err := os.Open(mnt)
	require.NoError(t, err)
	defer dir.Close()
	const fiFreeze, fiThaw = 0xC0045877, 0xC0045878
	require.NoError(t, unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0))
	thaw := func() { _ = unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0) }
	defer thaw()

	var sys run.System
	c := run.Command{Name: "mkdir", Args: []string{filepath.Join(mnt, "d")}, Timeout: 100 * time.Millisecond}
	_, err = sys.Run(t.Context(), c)
	if !errors.Is(err, run.ErrStuck) || !errors.Is(err, run.ErrTimeout) {
		t.Fatalf("got %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	assert.ErrorIsf(t, sys.Wait(short), context.DeadlineExceeded, "wait while frozen")
	thaw()
	require.NoError(t, sys.Wait(t.Context()))
}

func TestRecorder(t *testing.T) {
	rec := &fakes.Recorder{}
	if _, err := rec.Run(t.Context(), run.Command{Name: "true", Timeout: time.Second}); err == nil {
		t.Error("ran without a next runner")
	}
	rec.Next = fakes.Run(func(context.Context, run.Command) (run.Result, error) {
		return run.Result{Stdout: []byte("fake")}, nil
	})
	if res, err := rec.Run(t.Context(), run.Command{Name: "x"}); err != nil || string(res.Stdout) != "fake" {
		t.Errorf("got %q, %v", res.Stdout, err)
	}
	if rec.Count() != 2 || rec.Calls()[1].Name != "x" {
		t.Errorf("calls: %+v", rec.Calls())
	}
}

// Without sync, a filter answers sync(2) in the command, and in no other process.
func TestNoSync(t *testing.T) {
	for noSync, want := range map[bool]string{false: "Seccomp:\t0\n", true: "Seccomp:\t2\n"} {
		res, err := (&run.System{}).Run(t.Context(), run.Command{
			Name: "sh", Args: []string{"-c", "sync && cat /proc/self/status"}, Timeout: time.Minute, NoSync: noSync,
		})
		if err != nil || !strings.Contains(string(res.Stdout), want) {
			t.Errorf("%t: %v, %s", noSync, err, res.Stdout)
		}
	}
}

// Attend gets the process. Its context ends with the command, and Run waits for it.
func TestAttend(t *testing.T) {
	returned := false
	c := sh("read line; echo $line; exec sleep 0.1")
	in, out, err := os.Pipe()
	require.NoError(t, err)
	defer in.Close()
	c.Stdin = in
	c.Attend = func(ctx context.Context, p *os.Process) {
		_, _ = fmt.Fprintln(out, p.Pid)
		_ = out.Close()
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond)
		assert.ErrorIsf(t, p.Signal(unix.Signal(0)), os.ErrProcessDone, "the process has not ended")
		returned = true
	}
	res, err := do(t, c)
	if err != nil || len(res.Stdout) < 2 || !returned {
		t.Errorf("got %q, %v, Attend returned: %v", res.Stdout, err, returned)
	}
}

// A command that was stopped cleans up after SIGINT, if Attend continues it.
func TestStoppedCommandIsInterrupted(t *testing.T) {
	for what, end := range map[string]func(*run.Command, context.CancelFunc){
		"context": func(_ *run.Command, cancel context.CancelFunc) { time.AfterFunc(300*time.Millisecond, cancel) },
		"timeout": func(c *run.Command, _ context.CancelFunc) { c.Timeout = 300 * time.Millisecond },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		c := sh("trap 'echo cleaned; exit 3' INT; while :; do sleep 0.01; done")
		c.Timeout, c.Interrupt = time.Minute, time.Minute
		c.Attend = func(ctx context.Context, p *os.Process) {
			time.Sleep(100 * time.Millisecond) // the trap is set
			assert.NoError(t, p.Signal(unix.SIGSTOP))
			<-ctx.Done()
			_ = p.Signal(unix.SIGCONT)
		}
		end(&c, cancel)
		var sys run.System
		res, err := sys.Run(ctx, c)
		cancel()
		var failed *run.Error
		if !errors.As(err, &failed) || failed.ExitCode != 3 || string(res.Stdout) != "cleaned\n" {
			t.Errorf("%s: got %q, %v", what, res.Stdout, err)
		}
	}
}

// stopsCommand is the variable that makes the test program call runStopped.
const stopsCommand = "RUN_TEST_STOPS_COMMAND"

// runStopped runs a command, stops it, prints its PID, and waits.
func runStopped() {
	c := sh("sleep 60")
	c.Timeout, c.Hostname, c.KillWithParent = time.Minute, "other", true
	c.Attend = func(ctx context.Context, p *os.Process) {
		err := p.Signal(unix.SIGSTOP)
		fmt.Println(p.Pid, err)
		<-ctx.Done()
	}
	var sys run.System
	_, err := sys.Run(context.Background(), c)
	fmt.Println(err)
	os.Exit(1)
}

// A command dies with this process, even if it is stopped.
func TestCommandDiesWithParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), stopsCommand+"=1")
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	var pid int
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, serr := fmt.Sscanf(line, "%d <nil>", &pid); err != nil || serr != nil {
		t.Fatalf("got %q, %v", line, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(ended, 20_000)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(ended, 20_000)
	}
	if n != 1 || err != nil {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		t.Errorf("the command has not ended: %d, %v", n, err)
	}
}
