package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// killGrace bounds the wait for the pipes of a command, which a child of the command may keep open. The pipes are
// closed when Command.Interrupt plus killGrace has passed since the command ended or its context ended. A command that
// has not ended 2 * killGrace after it was killed counts as stuck.
const killGrace = 3 * time.Second

// System runs commands on this host. Its zero value is ready; it must not be
// copied. It is safe for concurrent use.
type System struct {
	mu      sync.Mutex
	running map[*child]struct{}
}

// child is a started command until it has been reaped.
type child struct {
	cmd *exec.Cmd
	// done is closed when the command was reaped; err is set before.
	done chan struct{}
	err  error
}

// LookPath returns the path of a program in PATH, or an error if there is none.
func LookPath(name string) (string, error) { return exec.LookPath(name) }

// Run implements Runner. The command starts from the thread of the caller, and inherits its namespaces. Even if the
// command cannot be killed, Run returns a few seconds after the timeout. Wait also waits for such a command.
func (s *System) Run(ctx context.Context, c Command) (Result, error) {
	if c.Timeout <= 0 {
		return Result{}, c.fail(-1, nil, errors.New("no timeout was set for it"))
	}
	limit, cancel := context.WithTimeoutCause(ctx, c.Timeout, ErrTimeout)
	defer cancel()
	if c.KillWithParent { // the kernel kills the command when the thread ends that started it: see prctl(2)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}

	stdout, stderr := NewHead(MaxStdout), NewTail(MaxStderr)
	cmd := newCmd(limit, c)
	cmd.Stderr = stderr
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(stderr, c.Stderr)
	}
	if cmd.Stdout = c.Stdout; c.Stdout == nil {
		cmd.Stdout = stdout
	}
	begin := func(cmd *exec.Cmd) error { return start(cmd, c.Hostname) }
	if c.NoSync {
		begin = startWithoutSync
	}
	if err := begin(cmd); err != nil {
		return Result{}, c.fail(-1, nil, err)
	}
	if c.OOMScore != "" { // a kernel that refuses is no reason to fail
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(c.OOMScore), 0)
	}
	unattend := attend(limit, c, cmd.Process)
	err, reaped := s.wait(limit, cmd, c.Interrupt)
	unattend()
	res := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if !reaped {
		return res, c.fail(-1, res.Stderr, fmt.Errorf("%w: %w", context.Cause(limit), ErrStuck))
	}
	if err == nil && stdout.Overflowed() {
		err = fmt.Errorf("%w: more than %d bytes", ErrOutput, MaxStdout)
	}
	if err == nil {
		return res, nil
	}
	code := -1
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if limit.Err() != nil {
		err = context.Cause(limit)
	}
	return res, c.fail(code, res.Stderr, err)
}

// attend calls Attend of the command in a goroutine. The function that it returns ends the context of the call, and
// waits for the call. os.Process is safe for concurrent use, so Attend can send signals while another goroutine waits
// for the process, and no signal goes to another process that got the same PID.
func attend(ctx context.Context, c Command, p *os.Process) (end func()) {
	if c.Attend == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Attend(ctx, p)
	}()
	return func() {
		cancel()
		<-done
	}
}

func newCmd(ctx context.Context, c Command) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Name, c.Args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	cmd.Stdin = c.Stdin
	cmd.ExtraFiles = c.Files
	cmd.Dir = c.Dir
	cmd.WaitDelay = c.Interrupt + killGrace
	// The command gets a separate process group, so that the kill also reaches the children of the command.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.OwnPIDs {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	if c.KillWithParent {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	cmd.Cancel = func() error {
		if c.Interrupt > 0 {
			return cmd.Process.Signal(os.Interrupt)
		}
		return killGroup(cmd)
	}
	return cmd
}

// killGroup kills a command and its children.
func killGroup(cmd *exec.Cmd) error {
	err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// wait reaps cmd. exec.Cmd.Wait is not sufficient: WaitDelay bounds the wait for the pipes, but nothing bounds the wait
// for a process that waits in the kernel and cannot be killed. When ctx ends, the command gets SIGINT if interrupt is
// positive, and is killed if it still runs after that time. If interrupt is 0, it is killed at once. reaped is false if
// the command is stuck.
func (s *System) wait(ctx context.Context, cmd *exec.Cmd, interrupt time.Duration) (err error, reaped bool) {
	p := &child{cmd: cmd, done: make(chan struct{})}
	s.mu.Lock()
	if s.running == nil {
		s.running = make(map[*child]struct{})
	}
	s.running[p] = struct{}{}
	s.mu.Unlock()
	go func() { // System.Wait waits for it
		p.err = cmd.Wait()
		s.mu.Lock()
		delete(s.running, p)
		s.mu.Unlock()
		close(p.done)
	}()

	select {
	case <-p.done:
		return p.err, true
	case <-ctx.Done():
	}
	if interrupt > 0 {
		cleaning := time.NewTimer(interrupt)
		defer cleaning.Stop()
		select {
		case <-p.done:
			return p.err, true
		case <-cleaning.C:
			_ = killGroup(cmd) // WaitDelay kills the command again
		}
	}
	grace := time.NewTimer(2 * killGrace)
	defer grace.Stop()
	select {
	case <-p.done:
		return p.err, true
	case <-grace.C:
		return nil, false
	}
}

// Wait waits until every command that was started before has ended. If ctx ends first, it returns the cause of ctx.
func (s *System) Wait(ctx context.Context) error {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.running))
	s.mu.Unlock()
	for _, p := range all {
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w", p.cmd.String(), context.Cause(ctx))
		}
	}
	return nil
}
