package nodes

import (
	"context"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// guardFlags are the flags of drover guard.
type guardFlags struct {
	root, run, watchdog, level, logFormat string
	step                                  time.Duration
	hand                                  bool
}

// GuardCommand makes drover guard with its subcommands.
func GuardCommand(a *cli.App) *cobra.Command {
	var f guardFlags
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "Fence volumes whose agent does not respond",
		Long: `Run the guard of this host: a small process beside the agent. When the lease of
a volume with failover auto reaches its deadline, the guard stops all writing to
the volume, whether or not the agent is alive. It freezes the filesystem of the
volume, or stops the processes that use it. It kills processes that cannot be
stopped. If the profile says so, the watchdog reboots the host.

Stopping the guard lifts no fence. While it does not run, nothing is fenced, so
have it restarted automatically. A new guard continues where the old one ended.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.hand {
				return guard.ServeHand(f.run, f.root)
			}
			return runGuard(cmd.Context(), a, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.root, "root", "/var/lib/drover", "`DIR` of the state, the same as the agent's")
	fl.StringVar(&f.run, "run", "/run/drover", "`DIR` of the guard's socket, on a tmpfs")
	fl.StringVar(&f.watchdog, "watchdog", "/dev/watchdog", "watchdog `DEVICE`, opened when a volume needs it")
	fl.StringVar(&f.level, "log-level", "info", "minimum `LEVEL` of log messages: debug, info, warning, error")
	fl.StringVar(&f.logFormat, "log-format", daemon.Auto, daemon.FlagHelp)
	fl.DurationVar(&f.step, "step", time.Second,
		"`TIME` for each step of a fence (freeze, stop, kill): at most a tenth of the time after which control "+
			"considers a host lost")
	fl.BoolVar(&f.hand, "hand", false, "run as the guard's hand (used by the guard)")
	cobra.CheckErr(fl.MarkHidden("hand"))
	cmd.AddCommand(newGuardLsCmd(a), newGuardReleaseCmd(a))
	return cmd
}

func runGuard(ctx context.Context, a *cli.App, f guardFlags) error {
	log, err := daemon.NewLogger(f.level, f.logFormat, a.Getenv)
	if err != nil {
		return err
	}
	if f.step < guard.MinStep || f.step > guard.MaxStep {
		return dataset.Errorf(dataset.ErrInvalid, "--step %v: expected %v to %v", f.step, guard.MinStep, guard.MaxStep)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer daemon.IgnoreHangup(ctx, log)()
	return guard.Daemon{
		Root: f.root, Run: f.run, Watchdog: f.watchdog, Step: f.step, Version: a.Version, Log: log,
		Hand:  []string{"/proc/self/exe", "guard", "--hand", "--root", f.root, "--run", f.run},
		Ready: func() { daemon.NotifyReady(log) },
	}.Serve(ctx)
}
