package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

const (
	// pollWait is how long one request about an operation waits for a change.
	pollWait = 2 * time.Second
	// MaxOffline is how often a request is repeated while the server is unreachable. offlinePause is the pause between
	// two attempts. While a server restarts, it is unreachable for a moment, but the operation continues.
	MaxOffline   = 30
	offlinePause = time.Second
)

// WorkFlags adds -o and --detach to a command that changes something. Each such command accepts -q. The help shows it
// only if quiet is set.
func WorkFlags(cmd *cobra.Command, quiet bool) *Output {
	o := OutputFlags(cmd, true)
	cmd.Flags().Lookup("quiet").Hidden = !quiet
	DetachFlag(cmd, o)
	return o
}

// DetachFlag adds --detach to a command.
func DetachFlag(cmd *cobra.Command, o *Output) {
	cmd.Flags().BoolVar(&o.Detach, "detach", false, "print the operation's ID and do not wait for its end")
}

// Change requests a change, waits for it, and prints the line that describe returns for the outcome. The outcome has no
// operation if nothing had to be done. The operation of a dry run has not begun. Any other operation has ended, except
// a purge that waits for its pool.
func (a *App) Change(cmd *cobra.Command, o *Output, req api.Request,
	describe func(api.Outcome) (id uuid.UUID, line string)) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	out, err := a.Submit(cmd.Context(), c, o, req)
	if err != nil {
		return err
	}
	return a.Report(o, out, describe)
}

// Submit requests a change and, unless detached, waits for it. If the operation created a volume, the outcome contains
// the present volume of that name, because an identical request may have created the volume first. A dry run only asks
// for the decision.
func (a *App) Submit(ctx context.Context, c Remote, o *Output, req api.Request) (api.Outcome, error) {
	ctx, stop := a.Signals(ctx)
	defer stop()
	req.ID, req.DryRun = a.NewID(), o.DryRun
	out, err := c.Submit(ctx, req)
	if ctx.Err() != nil && err != nil {
		return out, dataset.Errorf(dataset.ErrCancelled,
			"interrupted before the server answered: the operation may continue (drover operation inspect --wait %s)",
			req.ID)
	}
	if err != nil || o.Detach || o.DryRun || out.Operation == nil {
		return out, withHolders(ctx, c, req, err)
	}
	m := a.Meter(meterAction(req)+" "+meterName(req, *out.Operation), o.Quiet)
	op, err := a.Wait(ctx, c, *out.Operation, m)
	m.Close()
	out.Operation = &op // if Wait fails, the last known state
	if err != nil {
		return out, withHolders(ctx, c, req, err)
	}
	switch req.Kind {
	case dataset.OpCreate, dataset.OpClone, dataset.OpImport:
		// The work is done, whether or not its result can be read. Without the
		// result, the operation's record is shown.
		if v, err := c.Volume(ctx, op.Volume); err == nil {
			out.Volume = &v
		}
	}
	return out, nil
}

// meterAction returns the verb for the display of progress. The import of a backup is a restore for the user.
func meterAction(req api.Request) string {
	if req.Kind == dataset.OpImport && req.Backup != "" {
		return "restore"
	}
	return string(req.Kind)
}

// meterName returns the name of a volume for the display of progress: that of the request, or that of the operation if
// the request has a UUID.
func meterName(req api.Request, op dataset.Operation) string {
	if _, err := uuid.Parse(req.Volume); err == nil && op.Volume != "" {
		return op.Volume
	}
	return req.Volume
}

// CheckAllowed fails as Submit does if control refuses a request now. A command calls it before it asks for a
// confirmation, so that nobody confirms what is refused. It changes nothing.
func (a *App) CheckAllowed(ctx context.Context, c Remote, o *Output, req api.Request) error {
	dry := *o
	dry.DryRun = true
	_, err := a.Submit(ctx, c, &dry, req)
	return err
}

// Wait waits for an operation to end and fails as the operation did. For a purge that waits for its pool, it returns
// nil at once. If ctx ends, Wait fails with dataset.ErrCancelled, and the operation continues.
func (a *App) Wait(ctx context.Context, c Remote, op dataset.Operation, m Meter) (dataset.Operation, error) {
	for polls, failures := 0, 0; !op.State.Final(); polls++ {
		next, err := c.Operation(ctx, op.ID.String(), pollWait)
		switch {
		case err != nil && ctx.Err() != nil:
			return op, dataset.Errorf(dataset.ErrCancelled,
				"interrupted: operation %s continues (drover operation inspect --wait %s shows it, drover operation "+
					"cancel %s cancels it)", op.ID, op.ID, op.ID)
		case errors.Is(err, dataset.ErrUnavailable) && failures < MaxOffline:
			failures++
			_ = a.Sleep(ctx, offlinePause) // if ctx ends, the next round returns its error
			continue
		case err != nil:
			return op, fmt.Errorf("cannot watch operation %s, which continues: %w", op.ID, err)
		}
		if op, failures = next, 0; op.State.Final() || IsPendingPurge(op) {
			break
		}
		p := op.Progress
		if p.Step == "" && polls > 0 {
			p.Step = string(op.State) // shows at least the state of a long operation
		}
		if p.Step != "" {
			m.Update(p)
		}
	}
	if IsPendingPurge(op) {
		return op, nil
	}
	return op, OperationError(op)
}

// IsPendingPurge reports whether a purge waits for its pool. Commands do not wait for such a purge: the dataset is
// condemned, and the node destroys it when the pool is online again.
func IsPendingPurge(op dataset.Operation) bool {
	return op.Kind == dataset.OpPurge && !op.State.Final() && op.Progress.Waiting
}

// OperationError returns the error of a final operation, or nil if the operation succeeded.
func OperationError(op dataset.Operation) error {
	switch {
	case op.State == dataset.OpDone:
		return nil
	case op.State == dataset.OpCancelled:
		return dataset.Errorf(dataset.ErrCancelled, "operation %s (%s %s) was cancelled", op.ID, op.Action(), op.Volume)
	case op.Problem == nil:
		return dataset.Errorf(dataset.ErrInternal, "operation %s (%s %s) failed, and no reason was "+
			"recorded", op.ID, op.Action(),
			op.Volume)
	}
	return op.Problem.Err()
}

// Report prints an outcome: the object of the API, only the ID, or a line.
func (a *App) Report(o *Output, out api.Outcome, describe func(api.Outcome) (uuid.UUID, string)) error {
	switch {
	case o.JSON():
		return JSON(a.Out, out)
	case o.DryRun:
		_, line := describe(out)
		return a.PrintLine("dry run: %s", line)
	case o.Detach && out.Operation == nil:
		_, err := fmt.Fprintln(a.ErrOut, "drover: nothing to do, so there is no operation")
		return err
	case o.Detach:
		return a.PrintLine("%s", out.Operation.ID)
	}
	id, line := describe(out)
	if o.Quiet {
		line = id.String()
	}
	return a.PrintLine("%s", line)
}

// ReportInterrupt ends a command for several items after an interrupt. It returns err, the error of the interrupted
// item. With -o json it prints the outcomes so far, and that of the interrupted item if the server answered.
func (a *App) ReportInterrupt(o *Output, outs []api.Outcome, interrupted api.Outcome, err error) error {
	if !o.JSON() {
		return err
	}
	if interrupted.Operation != nil {
		outs = append(outs, interrupted)
	}
	return cmp.Or(JSONList(a.Out, outs), err)
}

// MadeDataset returns the dataset that an outcome is about: its present state if that is
// known, or else the state that the operation requested.
func MadeDataset(out api.Outcome) dataset.Dataset {
	switch {
	case out.Volume != nil:
		return out.Volume.Dataset
	case out.Operation != nil && out.Operation.DatasetRecord != nil:
		return *out.Operation.DatasetRecord
	case out.Operation != nil:
		return dataset.Dataset{ID: out.Operation.DatasetID, Volume: out.Operation.Volume}
	}
	return dataset.Dataset{}
}

// Flag is the flag --yes of a command.
type Flag struct{ yes bool }

// AddFlag gives a command the flag --yes.
func AddFlag(cmd *cobra.Command) *Flag {
	f := &Flag{}
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask for confirmation")
	return f
}

// Given reports whether --yes was given. In that case no question is shown, so the command need not find out the
// effects.
func (f *Flag) Given() bool { return f.yes }

// A Question describes what an operator must confirm.
type Question struct {
	Action  string   // what the command does, such as "purge dataset f23c…"
	Effects []string // what is changed or lost, one clause each, without a period
	Name    string   // the word that the operator must type: the name of the thing
}

// Ask returns nil if the operator confirms the question: with --yes, or by typing its name on a terminal. It fails with
// dataset.ErrCancelled for any other word, and with dataset.ErrInvalid if there is no terminal to ask at.
func (f *Flag) Ask(a *App, q Question) error {
	switch {
	case f.yes:
		return nil
	case !IsTerminal(a.In):
		return dataset.Errorf(dataset.ErrInvalid,
			"%s: this requires confirmation, and there is no terminal to ask at (use --yes): %s", q.Action,
			strings.Join(q.Effects, "; "))
	}
	return q.ask(a)
}

// ask shows the effects, and reads one line.
func (q Question) ask(a *App) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:\n", q.Action)
	for _, e := range q.Effects {
		fmt.Fprintf(&b, "  - %s\n", Clean(e))
	}
	fmt.Fprintf(&b, "Type %s to continue: ", Clean(q.Name))
	if _, err := io.WriteString(a.ErrOut, b.String()); err != nil {
		return err
	}
	line, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != q.Name || q.Name == "" {
		return dataset.Errorf(dataset.ErrCancelled, "%s: not confirmed, nothing was changed", q.Action)
	}
	return nil
}

// Count returns a number with its noun, such as "1 snapshot" or "2 snapshots".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// defaultWatchPause is the time between two lists of --watch if List.WatchPause is zero.
const defaultWatchPause = 2 * time.Second

func (l List[T]) watchPause() time.Duration { return cmp.Or(l.WatchPause, defaultWatchPause) }

// clearScreen moves the cursor of a terminal to the first line and clears the screen.
const clearScreen = "\x1b[H\x1b[2J"

// watch prints the list until the user interrupts it, or until it fails.
func (l List[T]) watch(a *App, cmd *cobra.Command, o *listOptions, args []string) error {
	ctx, stop := a.Signals(cmd.Context())
	defer stop()
	cmd.SetContext(ctx)
	for {
		if IsTerminal(a.Out) {
			if _, err := fmt.Fprint(a.Out, clearScreen); err != nil {
				return err
			}
		}
		if err := l.run(a, cmd, o, args); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if a.Sleep(ctx, l.watchPause()) != nil { // the user interrupted it
			return nil
		}
	}
}
