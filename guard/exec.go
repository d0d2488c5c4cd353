package guard

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// ExecFence is a command of the operator's that cuts another node off from all storage and
// returns 0 only once that is certain: it switches the node's power off, say. It is run by
// the side that wants to go on without that node, not by the guard.
type ExecFence struct {
	// Args are the program, by an absolute path, and its arguments.
	Args []string `json:"exec"`
	// Timeout of one run; DefaultExecTimeout when 0.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// DefaultExecTimeout is how long a fence command has that does not say.
const DefaultExecTimeout = time.Duration(dataset.DefaultFenceTimeout)

// MaxExecTimeout bounds ExecFence.Timeout: a Mount that waits for it has two minutes.
const MaxExecTimeout = time.Duration(dataset.MaxFenceTimeout)

// Check fails with ErrInvalid for what cannot be run.
func (f ExecFence) Check() error {
	if len(f.Args) == 0 || !filepath.IsAbs(f.Args[0]) {
		return dataset.Errorf(dataset.ErrInvalid, "fence: exec wants a program by its absolute path, and its arguments")
	}
	if f.Timeout < 0 || f.Timeout > MaxExecTimeout {
		return dataset.Errorf(dataset.ErrInvalid, "fence: timeout %v: want %v at most", f.Timeout, MaxExecTimeout)
	}
	return nil
}

// Fence runs the command, with the node's name and UUID behind its arguments. Only nil
// means that the node is cut off; of an error nothing follows. It is run again for each
// call, so the command has to be idempotent.
func (f ExecFence) Fence(ctx context.Context, r run.Runner, name string, node uuid.UUID) error {
	if err := f.Check(); err != nil {
		return err
	}
	if strings.HasPrefix(name, "-") {
		return dataset.Errorf(dataset.ErrInvalid, "fence node %q: its name would be read as an option", dataset.Clip(name))
	}
	timeout := f.Timeout
	if timeout == 0 {
		timeout = DefaultExecTimeout
	}
	args := append(append([]string{}, f.Args[1:]...), name, node.String())
	_, err := r.Run(ctx, run.Command{Name: f.Args[0], Args: args, Timeout: timeout})
	var failed *run.Error
	if errors.As(err, &failed) { // its arguments may hold what is not for everybody who reads this
		err = &run.Error{Cmd: failed.Cmd, ExitCode: failed.ExitCode, Stderr: failed.Stderr, Err: failed.Err}
	}
	if err != nil {
		return fmt.Errorf("fence node %s: %w", name, err)
	}
	return nil
}
