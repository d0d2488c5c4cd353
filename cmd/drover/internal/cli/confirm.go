package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

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
