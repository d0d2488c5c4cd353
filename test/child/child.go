// Package child runs the programs of tests: each with its output in a file, killed
// when the test process dies, and waited for by one goroutine that belongs to it.
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

// Spec says what to run.
type Spec struct {
	Args []string   // the program and its arguments
	Log  string     // file at whose end its output goes
	Dir  string     // where it runs; empty: here
	Env  []string   // more than this process has
	Keep []*os.File // it gets these as 3, 4 …
	// Line is called with each line of its standard output, from one goroutine.
	Line func(string)
}

// Process is a program that was started. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; read after done
}

// Start starts a program in a session of its own.
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
		// The kernel sends the death signal when the thread ends, not the process (prctl(2)): this one
		// stays until the child is gone.
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

// read copies what a program says to its log, and shows each line.
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

// PID is that of the process; it may have ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits until the process has ended and returns how, nil for exit status 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Running reports whether the process has not ended. No process never ran.
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

// Signal sends a signal; a process that has ended is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Pause freezes the process and returns when it stands still: on a busy machine, that
// it was told to is not yet that. A process that has ended is no error; one that is
// paused is not paused again.
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

// Ended waits until the process has ended, however it did.
func (p *Process) Ended(within time.Duration) error {
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s (process %d) did not end within %s", p.cmd.Path, p.PID(), within)
	}
}
