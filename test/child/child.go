// Package child runs the programs of tests. The output of each program goes to a file. The kernel kills each program
// when the test process ends. Packages test/chaos, cluster, consul, engine, host and lab start their processes with it.
// A [Process] owns the running program. Its methods are safe for concurrent use without a lock: one goroutine waits for
// the program, sets the error and then closes a channel.
package child

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec describes a program to run.
type Spec struct {
	Args []string   // the program and its arguments
	Log  string     // file to which its output is appended
	Dir  string     // its working directory; empty: that of this process
	Env  []string   // beside the environment of this process
	Keep []*os.File // open files that it gets as 3, 4 …
	// Line is called with each line of its standard output, always from the same goroutine.
	Line func(string)
}

// Process is a started program. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; valid after done
}

// Start starts a program in a new session.
func Start(s Spec) (*Process, error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.Args[0], s.Args[1:]...)
	cmd.Dir, cmd.ExtraFiles = s.Dir, s.Keep
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setsid: true}
	var lines io.Reader
	if s.Line != nil {
		cmd.Stdout = nil
		if lines, err = cmd.StdoutPipe(); err != nil {
			return nil, errors.Join(err, log.Close())
		}
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the parent thread ends, not the process (prctl(2)). So this
		// thread stays until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		if lines != nil {
			read(lines, log, s.Line)
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Args[0], err)
	}
	return p, nil
}

// read copies the output of a program to its log, and passes on each line.
func read(from io.Reader, log io.Writer, line func(string)) {
	in := bufio.NewReader(from)
	for {
		s, err := in.ReadString('\n')
		fmt.Fprint(log, s)
		if s != "" {
			line(s)
		}
		if err != nil {
			return
		}
	}
}

// PID returns the PID of the process, which may have ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits until the process has ended. It returns nil for exit status 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Running reports whether the process is running. It is false for a nil Process.
func (p *Process) Running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal. It returns nil if the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Pause suspends the process and returns when it is suspended. On a busy machine this takes some time after the
// signal. It returns nil if the process has ended or is suspended already.
func (p *Process) Pause() error {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED, nil)
		if errors.Is(err, unix.ECHILD) {
			return nil // it has ended
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// End sends a signal and waits until the process has ended.
func (p *Process) End(sig syscall.Signal, within time.Duration) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	return p.Ended(within)
}

// Ended waits until the process has ended, for whatever reason.
func (p *Process) Ended(within time.Duration) error {
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s (process %d) did not end within %s", p.cmd.Path, p.PID(), within)
	}
}
