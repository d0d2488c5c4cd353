package guards

import (
	"context"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/servers"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// guardFlags is what drover guard can be told.
type guardFlags struct {
	root, run, watchdog, level string
	step                       time.Duration
	hand                       bool
}

// Command makes drover guard with its subcommands.
func Command(a *cli.App) *cobra.Command {
	var f guardFlags
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "Fence volumes whose agent fell silent",
		Long: `Run the guard of this host: a small process beside the agent that stops all
writing to a volume with failover auto when the deadline of its lease passes,
whether the agent lives or not. It freezes the volume's filesystem, or stops
those who use it, kills them when they cannot be stopped, and where the profile
says so has the watchdog reboot the host.

Stopping it lifts no fence. While it does not run nothing is fenced, so have it
restarted; a started guard goes on where the one before it was.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.hand {
				return guard.ServeHand(f.run, f.root)
			}
			return runGuard(cmd.Context(), a, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.root, "root", "/var/lib/drover", "`DIR` of the state, as the agent has it")
	fl.StringVar(&f.run, "run", "/run/drover", "`DIR` of the guard's socket, on a tmpfs")
	fl.StringVar(&f.watchdog, "watchdog", "/dev/watchdog", "watchdog `DEVICE`, opened once a volume wants it")
	fl.StringVar(&f.level, "log-level", "info", "least `LEVEL` of what is logged: debug, info, warning, error")
	fl.DurationVar(&f.step, "step", time.Second,
		"`TIME` that each rung of the ladder has: at most a tenth of what control takes a silent host for alive")
	fl.BoolVar(&f.hand, "hand", false, "be the guard's hand, which the guard itself starts")
	cobra.CheckErr(fl.MarkHidden("hand"))
	cmd.AddCommand(newGuardLsCmd(a), newGuardReleaseCmd(a))
	return cmd
}

func runGuard(ctx context.Context, a *cli.App, f guardFlags) error {
	log, err := servers.NewLog(f.level)
	if err != nil {
		return err
	}
	if f.step < guard.MinStep || f.step > guard.MaxStep {
		return dataset.Errorf(dataset.ErrInvalid, "--step %v: want %v to %v", f.step, guard.MinStep, guard.MaxStep)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return guard.Process{
		Root: f.root, Run: f.run, Watchdog: f.watchdog, Step: f.step, Version: a.Version, Log: log,
		Hand:  []string{"/proc/self/exe", "guard", "--hand", "--root", f.root, "--run", f.run},
		Ready: func() { servers.NotifyReady(log) },
	}.Serve(ctx)
}
