package nodes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
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

// DialGuard returns the guard whose socket is in a folder. It fails with ErrUnavailable at once if the socket does not
// exist. A client of package guard would wait for a guard that is being restarted.
func DialGuard(run string) (cli.Fencer, error) {
	path := guard.SocketPath(run)
	if _, err := os.Lstat(path); err != nil {
		return nil, dataset.Errorf(dataset.ErrUnavailable,
			"cannot connect to the guard of this host: %w (check that drover guard runs; --run is the folder of "+
				"its socket)", err)
	}
	return guard.NewClient(path)
}

// guardRunFlag names the folder of the guard's socket.
func guardRunFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("run", "/run/drover", "`DIR` of the guard's socket")
}

func newGuardLsCmd(a *cli.App) *cobra.Command {
	var run *string
	cmd := cli.New(a, cli.List[guard.Entry]{
		Short: "List the volumes that this host's guard can fence",
		Local: true,
		Fetch: func(cmd *cobra.Command, _ cli.ListQuery) ([]guard.Entry, error) {
			g, err := a.Fencer(*run)
			if err != nil {
				return nil, err
			}
			st, err := g.Status(cmd.Context())
			return st.Datasets, err
		},
		ID: func(e guard.Entry) string { return e.Dataset.String() },
		Columns: func([]guard.Entry) []cli.Column[guard.Entry] {
			return []cli.Column[guard.Entry]{
				{Header: "VOLUME", Cell: func(e guard.Entry) string { return e.Volume }},
				{Header: "DATASET", Cell: func(e guard.Entry) string { return e.Dataset.String() }},
				{Header: "EPOCH", Cell: func(e guard.Entry) string { return strconv.FormatUint(e.Epoch, 10) },
					Compare: cli.By(func(e guard.Entry) uint64 { return e.Epoch })},
				{Header: "STATE", Cell: func(e guard.Entry) string { return string(e.State) }},
				{Header: "DEADLINE", Cell: func(e guard.Entry) string { return deadlineLine(e, a.Boottime()) },
					Compare: cli.By(func(e guard.Entry) time.Duration { return e.Deadline })},
				{Header: "POLICY", Wide: true, Cell: func(e guard.Entry) string { return string(e.Policy) }},
			}
		},
		Compare: cli.By(func(e guard.Entry) string { return e.Volume }),
	})
	run = guardRunFlag(cmd)
	return cmd
}

func deadlineLine(e guard.Entry, now time.Duration) string {
	if e.State == guard.StateRebooted {
		return ""
	}
	if remaining := (e.Deadline - now).Round(time.Second); remaining >= 0 {
		return "in " + remaining.String()
	}
	return (now - e.Deadline).Round(time.Second).String() + " ago"
}

func newGuardReleaseCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release VOLUME",
		Short: "Kill the processes that use a fenced volume on this host, and unmount it",
		Long: `Kill the processes that use a fenced volume on this host, and unmount it. This
is for a host that is no longer a member of the cluster after drover node rm
--force, or that will never reach control again. Otherwise the agent resolves
the fence itself when it reaches control.

Every process that has the volume open is killed before it can write again. Then
the volume is unmounted and the guard forgets it. The data stays in its pool on
this host. VOLUME is the name of the volume or the UUID of its dataset. It must
be typed again to confirm the command, unless --yes is given.`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	yes := cli.AddFlag(cmd)
	run := guardRunFlag(cmd)
	o := cli.OutputFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.Fencer(*run)
		if err != nil {
			return err
		}
		if o.DryRun {
			return previewRelease(cmd.Context(), a, g, o, args[0])
		}
		e, err := findReleasable(cmd.Context(), g, args[0])
		if err != nil {
			return err
		}
		if err := yes.Ask(a, cli.Question{
			Action:  "release volume " + args[0],
			Effects: []string{"kills the processes that use it on this host, before they can write again"},
			Name:    args[0],
		}); err != nil {
			return err
		}
		// By its UUID: meanwhile the guard may have another volume of that name.
		if e, err = Release(cmd.Context(), g, mount.Unmount, e.Dataset.String()); err != nil {
			return err
		}
		return a.PrintResult(o, e,
			"released volume %s: it is unmounted and the processes that used it are killed; its data "+
				"stays in its pool", e.Volume)
	}
	return cmd
}

// previewRelease prints what releasing a dataset would do. It reads the guard's list and changes nothing.
func previewRelease(ctx context.Context, a *cli.App, g cli.Fencer, o *cli.Output, ref string) error {
	e, err := findReleasable(ctx, g, ref)
	if err != nil {
		return err
	}
	if o.JSON() {
		return cli.JSON(a.Out, e)
	}
	at := ""
	if len(e.Paths) > 0 {
		at = " at " + strings.Join(e.Paths, ", ")
	}
	return a.PrintLine("dry run: would kill the processes that use volume %s, and unmount it%s; its data would stay "+
		"in its pool", e.Volume, at)
}

// Release unmounts a dataset that a guard has fenced, and makes the guard forget it. Before that, the guard kills the
// processes that may write to the dataset, and then thaws the filesystem. After an error or an interruption, call
// Release again: it performs the remaining steps.
func Release(ctx context.Context, g cli.Fencer, unmount func(path string) error, ref string) (e guard.Entry,
	err error) {
	if e, err = findReleasable(ctx, g, ref); err != nil {
		return e, err
	}
	if e, err = g.Supersede(ctx, e.Dataset, e.Epoch); err != nil {
		return e, err
	}
	for _, path := range e.Paths {
		if err := checkReleased(ctx, g, e); err != nil {
			return e, err
		}
		if err := unmount(path); err != nil && !errors.Is(err, mount.ErrNotMounted) {
			return e, fmt.Errorf("release volume %s: unmount %s: %w (retry)", e.Volume, path, err)
		}
	}
	return e, g.Dismiss(ctx, e.Dataset, e.Epoch)
}

// findReleasable returns the dataset that a name or UUID refers to. It fails with ErrNotFound or ErrAmbiguous if that
// is not one dataset, and with ErrConflict if the dataset is not fenced.
func findReleasable(ctx context.Context, g cli.Fencer, ref string) (e guard.Entry, err error) {
	st, err := g.Status(ctx)
	if err != nil {
		return e, err
	}
	var known []string
	var found []guard.Entry
	for _, e := range st.Datasets {
		known = append(known, e.Volume)
		if e.Volume == ref || e.Dataset.String() == strings.ToLower(ref) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return e, dataset.Errorf(dataset.ErrNotFound,
			"release volume %q: the guard of this host does not know it (available: %s)%s", dataset.Clip(ref),
			dataset.FormatChoices(known), dataset.Suggestion(ref, known))
	case 1:
		e = found[0]
	default:
		return e, dataset.Errorf(dataset.ErrAmbiguous,
			"release volume %q: the guard knows several volumes of that name (use the UUID of the dataset: "+
				"drover guard ls)", ref)
	}
	if !slices.Contains([]guard.State{guard.StateFencing, guard.StateFenced, guard.StateSuperseded}, e.State) {
		return e, dataset.Errorf(dataset.ErrConflict,
			"release volume %s: it is %s, not fenced (stop its containers)", e.Volume, e.State)
	}
	return e, nil
}

// checkReleased fails with ErrConflict if an agent has opened the released dataset again.
func checkReleased(ctx context.Context, g cli.Fencer, e guard.Entry) error {
	st, err := g.Status(ctx)
	if err != nil {
		return err
	}
	for _, current := range st.Datasets {
		if current.Dataset == e.Dataset && current.State != guard.StateSuperseded {
			return dataset.Errorf(dataset.ErrConflict,
				"release volume %s: it is %s again: its agent controls it (stop its containers)", e.Volume,
				current.State)
		}
	}
	return nil
}
