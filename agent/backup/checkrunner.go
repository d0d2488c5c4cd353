package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

const (
	// MaxCheckTime is how long a check program may run.
	MaxCheckTime = 6 * time.Hour
	// maxCheckOutput is how many bytes of the output of a check program are kept. Only the last line is used.
	maxCheckOutput = 4 << 10
	// maxCheckLine is how many bytes of the last line an error repeats.
	maxCheckLine = 400
)

// CheckRunner runs check programs on restored volumes. It has no state. Its methods are safe for concurrent use.
type CheckRunner struct{ *operation.Operations }

// isolate is the command that runs a check program. unshare(1) starts the program as the first process of a new PID
// namespace, so the kernel kills all processes of the program when the program ends. If the agent is killed, the kernel
// kills unshare, and with it the program. The program has no network: the services of a restored volume must not reach
// those of the original one.
var isolate = []string{
	"ionice", "-c", "3", "-t",
	"unshare", "--fork", "--kill-child=KILL", "--pid", "--mount-proc", "--net", "--ipc", "--propagation=slave", "--",
}

// RunCheck runs the check program of a verification, op.Check, on the dataset into which a backup was restored. The
// program
// gets the path of the dataset's root as its argument. No other process can see that path. The program may change the
// files.
//
// control has checked op.Check. RunCheck checks it again: a compromised control must not make this host run any other
// program.
//
// unusable reports whether the program itself found that the volume is not usable. RunCheck then fails with
// dataset.ErrCorrupt. Any other failure says nothing about the backup.
func (c *CheckRunner) RunCheck(ctx context.Context, pool backends.Pool, op dataset.Operation) (unusable bool,
	err error) {
	if err := dataset.CheckCheckProgram(op.Check); err != nil {
		return false, err
	}
	if err := c.Keys.Programs.Check([]string{op.Check}); err != nil {
		return false, fmt.Errorf("check %w", err)
	}
	tree, err := mounting.OpenTree(ctx, pool, op.DatasetID, false)
	if err != nil {
		return false, err
	}
	path := filepath.Join(c.Root, "volume")
	err = mount.InNamespace(tree, path, func() error {
		if _, err := c.start(ctx, op, time.Minute, "/bin/true"); err != nil {
			return dataset.Errorf(dataset.ErrUnsupported, "this host cannot isolate check programs: %w", err)
		}
		last, err := c.start(ctx, op, MaxCheckTime, op.Check, path)
		if err != nil {
			unusable, err = explainCheck(ctx, op.Check, last, err)
		}
		return err
	})
	return unusable, errors.Join(err, tree.Close())
}

// start runs a command in isolation. It returns the last line of the output.
func (c *CheckRunner) start(ctx context.Context, op dataset.Operation, limit time.Duration, command ...string) (
	last string, err error) {
	out := run.NewTail(maxCheckOutput)
	res, err := c.Keys.Programs.Run(ctx, run.Command{
		Name:    isolate[0],
		Args:    append(isolate[1:len(isolate):len(isolate)], command...),
		Timeout: limit,
		Env: []string{
			"DROVER_VOLUME=" + op.Volume, "DROVER_REPOSITORY=" + op.Repository, "DROVER_BACKUP=" + op.Backup,
		},
		Stdout:         out,
		Dir:            "/",
		OOMScore:       "0",
		KillWithParent: true,
	})
	if last = lastLine(res.Stderr); last == "" {
		last = lastLine(out.Bytes())
	}
	return last, err
}

// explainCheck returns the error of a check program that failed with err, and whether the program found that the volume
// is not usable. last is the last line of its output.
func explainCheck(ctx context.Context, program, last string, err error) (unusable bool, explained error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if last != "" {
		last = ": " + last
	}
	var failed *run.Error
	switch {
	case errors.Is(err, run.ErrTimeout):
		return false, dataset.Errorf(dataset.ErrInternal, "check program %s: killed after %s%s", program, MaxCheckTime,
			last)
	case !errors.As(err, &failed) || failed.ExitCode < 0: // a signal: for example, the host had too little memory
		cause := err
		if failed != nil {
			cause = failed.Err
		}
		return false, dataset.Errorf(dataset.ErrInternal, "check program %s: %w%s", program, cause, last)
	case failed.ExitCode == 126, failed.ExitCode == 127: // as unshare(1) and shells exit
		return false, dataset.Errorf(dataset.ErrInvalid, "check program %s: it, or a program that it needs, cannot be "+
			"executed%s", program, last)
	case failed.ExitCode > 127: // a shell adds 128 to the number of the signal that killed its command
		return false, dataset.Errorf(dataset.ErrInternal, "check program %s: exit status %d, which says nothing about "+
			"the volume%s", program, failed.ExitCode, last)
	}
	return true, dataset.Errorf(dataset.ErrCorrupt, "check program %s: exit status %d%s", program, failed.ExitCode,
		last)
}

// lastLine returns the last line of an output that is not empty. Characters that a terminal could take for a command
// are replaced.
func lastLine(out []byte) string {
	text := strings.TrimSpace(strings.ToValidUTF8(string(out), "?"))
	text = text[strings.LastIndexByte(text, '\n')+1:]
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return dataset.CutTo(text, maxCheckLine)
}
