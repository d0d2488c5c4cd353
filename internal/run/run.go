// Package run starts external commands: argument vectors and never a shell, the C locale, a time limit on every call,
// bounded output, and errors that say in one line what failed and why. Backends, the agent, the guard and packages such
// as crypt, keys and restic start their commands through a [Runner] that their caller passes to them. Packages settings
// and status of the command drover, and control/store/bolt, start theirs with a new [System]. A [System] remembers the
// running commands. A [Recorder], which is for tests, remembers the commands that it was asked to run. Each of them is
// protected by a mutex. How a command is started, limited and killed is in system.go, and how an error is described in
// run.go.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Limits of the kept output of a command, in bytes.
const (
	MaxStdout = 4 << 20
	MaxStderr = 16 << 10
)

// The errors of a command besides a non-zero exit status, for errors.Is.
var (
	// ErrTimeout means that the command was killed because its Timeout passed.
	ErrTimeout = errors.New("timed out")
	// ErrStuck means that the command was killed and did not end, because it waits in the kernel (state D). It may
	// still change something later.
	ErrStuck = errors.New("killed but still running: it waits in the kernel (state D)")
	// ErrOutput means that the command wrote more than MaxStdout bytes. The rest was dropped.
	ErrOutput = errors.New("too much output")
)

// Command is one program to run.
type Command struct {
	// Name is the program, looked up in PATH if the name has no slash.
	Name string
	// Args are passed as they are. An argument that a user has chosen must come after "--" or be an absolute path, so
	// that it is not parsed as an option.
	Args []string
	// Timeout bounds the whole run and must be positive.
	Timeout time.Duration
	// Stdin may be nil: the command then reads end of file.
	Stdin io.Reader
	// Files are the descriptors 3, 4 and so on of the command. The caller closes them. A secret that a command reads
	// from a file can be passed in a file without a name (memfd_create(2)), which the command opens as /dev/fd/3.
	Files []*os.File
	// Env is added to this process's environment for the command, as NAME=value. It must not contain a secret, because
	// other processes can read it.
	Env []string
	// Stdout, if not nil, receives the whole output instead of Result.Stdout. MaxStdout does not apply to it.
	Stdout io.Writer
	// Stderr, if not nil, also receives the standard error.
	Stderr io.Writer
	// Dir is the working directory of the command. If it is empty, the command runs in that of this process.
	Dir string
	// Hostname, if not empty, is the host name that the command sees.
	Hostname string
	// OwnPIDs starts the command in a PID namespace (pid_namespaces(7)): it can send a signal to no process but its
	// children.
	OwnPIDs bool
	// OOMScore, if not empty, is the oom_score_adj of the command (proc_pid_oom_score_adj(5)). Otherwise it inherits
	// that of this process, which the kernel spares when memory is low.
	OOMScore string
	// KillWithParent makes the kernel kill the command, but not its children, if this process dies.
	KillWithParent bool
	// NoSync makes sync(2) do nothing in the command. LVM and ZFS call it, and need nothing of it. It would wait for
	// every filesystem of the host, also for one that somebody has frozen. Hostname and KillWithParent do not apply to
	// such a command.
	NoSync bool
	// Interrupt is how long a command may clean up after SIGINT, which it gets when ctx ends or Timeout passes. It is
	// killed afterwards. If Interrupt is zero, the command is killed at once.
	Interrupt time.Duration
	// Attend, if not nil, is called in a goroutine once the command runs. It may stop the process with SIGSTOP and
	// continue it with SIGCONT. ctx ends when the command has ended, or when it is interrupted or killed. Attend must
	// then continue the process, because a stopped process does not act on SIGINT, and return at once. Run waits for
	// it. Attend that stops the process needs KillWithParent. A Runner that starts no process, such as a fake, does not
	// call Attend.
	Attend func(ctx context.Context, p *os.Process)
}

// Result is the output of a command. Stderr holds its last MaxStderr bytes.
type Result struct {
	Stdout []byte
	Stderr []byte
}

// Runner runs commands. Implementations are safe for concurrent use.
type Runner interface {
	// Run waits for the command to end. For a command that does not exit with 0 it returns an *Error and the
	// output so far.
	Run(ctx context.Context, c Command) (Result, error)
}

// WithoutSync returns a Runner that sets NoSync in each command.
func WithoutSync(r Runner) Runner { return withoutSync{r} }

type withoutSync struct{ Runner }

func (r withoutSync) Run(ctx context.Context, c Command) (Result, error) {
	c.NoSync = true
	return r.Runner.Run(ctx, c)
}

// Error is a command that failed.
type Error struct {
	Cmd  string
	Args []string
	// ExitCode is -1 for a command that did not start or was killed.
	ExitCode int
	// Stderr is the end of the command's standard error.
	Stderr string
	// Err is the cause: a context's, ErrTimeout, ErrStuck, *exec.ExitError …
	Err error
}

// Error returns one line: the command, the cause, and its standard error.
func (e *Error) Error() string {
	line := strings.Join(append([]string{e.Cmd}, e.Args...), " ")
	msg := fmt.Sprintf("run %q: %v", line, e.Err)
	if text := oneLine(e.Stderr, 400); text != "" {
		msg += ": " + text
	}
	return msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// oneLine joins the non-empty lines of s and keeps the last max bytes, because
// programs say the reason last.
func oneLine(s string, max int) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	joined := strings.Join(lines, "; ")
	if len(joined) > max {
		joined = "…" + strings.ToValidUTF8(joined[len(joined)-max:], "")
	}
	return joined
}

func (c Command) fail(code int, stderr []byte, err error) *Error {
	return &Error{Cmd: c.Name, Args: slices.Clone(c.Args), ExitCode: code, Stderr: string(stderr), Err: err}
}
