package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// ExecFence is a command of the operator that cuts another node off from all storage, for instance by switching off
// its power. The command must return 0 only once the node is certainly cut off. The guard does not run the command.
// The node that takes over the datasets of the other node runs it.
type ExecFence struct {
	// Args are the program, by an absolute path, and its arguments.
	Args []string `json:"exec"`
	// Timeout bounds one run. If 0, DefaultExecTimeout is used.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// DefaultExecTimeout bounds a run if no timeout is configured.
const DefaultExecTimeout = time.Duration(dataset.DefaultFenceTimeout)

// MaxExecTimeout bounds ExecFence.Timeout: a Mount that waits for the fence must be answered within two minutes.
const MaxExecTimeout = time.Duration(dataset.MaxFenceTimeout)

// Check fails with ErrInvalid if the command cannot be run.
func (f ExecFence) Check() error {
	if len(f.Args) == 0 || !filepath.IsAbs(f.Args[0]) {
		return dataset.Errorf(dataset.ErrInvalid, "fence: exec requires the absolute path of a program, and its "+
			"arguments")
	}
	if f.Timeout < 0 || f.Timeout > MaxExecTimeout {
		return dataset.Errorf(dataset.ErrInvalid, "fence: timeout %v: expected %v at most", f.Timeout, MaxExecTimeout)
	}
	return nil
}

// Fence runs the command with the node's name and UUID after its arguments. It returns nil only if the node is cut off.
// After an error, the node may be cut off or not. Each call runs the command, so the command must be idempotent.
func (f ExecFence) Fence(ctx context.Context, r run.Runner, name string, node uuid.UUID) error {
	if err := f.Check(); err != nil {
		return err
	}
	if strings.HasPrefix(name, "-") {
		return dataset.Errorf(dataset.ErrInvalid, "fence node %q: the name looks like an option", dataset.Clip(name))
	}
	timeout := f.Timeout
	timeout = cmp.Or(timeout, DefaultExecTimeout)
	args := append(append([]string{}, f.Args[1:]...), name, node.String())
	_, err := r.Run(ctx, run.Command{Name: f.Args[0], Args: args, Timeout: timeout})
	var failed *run.Error
	if errors.As(err, &failed) { // the output may show the arguments, which may contain secrets
		err = &run.Error{
			Cmd:      failed.Cmd,
			ExitCode: failed.ExitCode,
			Stderr:   redact(failed.Stderr, f.Args[1:]),
			Err:      failed.Err,
		}
	}
	if err != nil {
		return fmt.Errorf("fence node %s: %w", name, err)
	}
	return nil
}

// redact returns the output of a program with the program's arguments replaced by …. It also replaces parts of an
// argument: the words of a script, the value of an option, a password before an @. A part of less than four bytes is
// replaced only if it is a whole argument or the value of an option, and only where it is a whole word of the output.
func redact(said string, args []string) string {
	hidden := make([]bool, len(said)) // by byte, because parts may overlap in the output
	for _, arg := range args {
		_, value, _ := strings.Cut(arg, "=")
		whole := []string{arg, value}
		for _, part := range append(whole, strings.FieldsFunc(arg,
			func(r rune) bool { return strings.ContainsRune(" \t\r\n\"'`=:@,;", r) })...) {
			if len(part) < 4 && !slices.Contains(whole, part) {
				continue
			}
			markHidden(hidden, said, part)
		}
	}
	var out strings.Builder
	for i := range len(said) {
		if !hidden[i] {
			out.WriteByte(said[i])
		} else if i == 0 || !hidden[i-1] {
			out.WriteString("…")
		}
	}
	return out.String()
}

// markHidden marks each occurrence of part in the output of the command.
func markHidden(hidden []bool, said, part string) {
	for at := 0; part != "" && at+len(part) <= len(said); at++ {
		end := at + len(part)
		if said[at:end] != part || len(part) < 4 &&
			(at > 0 && inWord(said[at-1]) || end < len(said) && inWord(said[end])) {
			continue
		}
		for i := at; i < end; i++ {
			hidden[i] = true
		}
	}
}

// inWord reports whether a byte is part of a letter or a digit.
func inWord(b byte) bool {
	return b >= utf8.RuneSelf || unicode.IsLetter(rune(b)) || unicode.IsDigit(rune(b))
}
