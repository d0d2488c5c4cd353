package run_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

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
