package cli

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

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
