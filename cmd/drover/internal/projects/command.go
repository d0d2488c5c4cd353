// Package projects has the command drover adopt-project. A journal records each step before it begins. Every step can
// be repeated: after an interruption the same command continues, and --undo works at each step. This protects the data:
//
//   - Before a container is stopped, `docker compose config` must print the same with the override file as without it,
//     except for the mounts and volumes of the plan.
//   - The mounts of containers must be those of the Compose file, before the plan and after the start.
//   - Each old folder is set aside (setAside) before it is copied. From then on no container can start with it.
//   - Nothing can write to the old data during the copy. Drover compares each copy with it, and only reads it.
package projects

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// command is one run of drover adopt-project.
type command struct {
	a    *cli.App
	host Host
	o    *cli.Output
	yes  *cli.Flag

	name          string
	settings      Settings
	undo, confirm bool

	engine  Engine
	remote  cli.Remote
	project Project
	all     []Container
	base    model // of the Compose file
	model   model // with the override file of an earlier move
	j       *Journal
}

// Command makes drover adopt-project.
func Command(a *cli.App, host Host) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "adopt-project PROJECT",
		SuggestFor: []string{"compose", "project"},
		Short:      "Move a Docker Compose project into volumes of Drover, or back",
		Long: `Move the local volumes of a Docker Compose project of this host, and the
directories that it mounts, into volumes of Drover. The command shows a plan and
asks. Then it stops the containers, sets the old data aside, copies it, compares
the copies, writes compose.override.yaml, which Docker Compose merges with the
Compose file, and starts and checks the containers that ran before. A command
that does not read that file cannot start them: each old FOLDER is now
FOLDER.before-drover.

--undo removes the override file, and the containers use the old data again.
What was written since the move is then only in the new volumes, which stay.
--confirm ends this. If the command is interrupted, run it again.`,
		Example: `  drover adopt-project blog --profile gold --dry-run
  drover adopt-project blog --profile gold --volume db_data=blog-db@gold --skip ./config
  drover adopt-project blog --undo
  drover adopt-project blog --confirm`,
		Args:              cli.Args(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c := &command{a: a, host: host, o: cli.OutputFlags(cmd, false), yes: cli.AddFlag(cmd)}
	cli.DryRunFlag(cmd, c.o)
	f := cmd.Flags()
	f.StringVar(&c.settings.Profile, "profile", "", "the `PROFILE` of the new volumes (default: the default profile)")
	f.StringToStringVar(&c.settings.Volumes, "volume", nil,
		"the `NAME=SPEC` of a new volume: NAME is a volume or a directory of the Compose file, SPEC may be @PROFILE")
	f.Lookup("volume").DefValue = "" // not []
	f.StringArrayVar(&c.settings.Skip, "skip", nil, "leave out a volume or a directory of the Compose file, by `NAME`")
	f.BoolVar(&c.undo, "undo", false, "go back to the old data, and remove the override file")
	f.BoolVar(&c.confirm, "confirm", false, "keep the new state, and forget how to go back")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("profile", cli.Complete(a, cli.ProfileWords)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("volume", cobra.NoFileCompletions))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("skip", cobra.NoFileCompletions))
	for _, flag := range []string{"dry-run", "profile", "volume", "skip"} {
		cmd.MarkFlagsMutuallyExclusive("undo", "confirm", flag)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.name = args[0]
		if !a.SameHost() {
			return dataset.Errorf(dataset.ErrUnsupported, "adopt-project works on the host of the engine, and the "+
				"server at %s may be on another (run drover there)", a.Address())
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		return c.run(ctx)
	}
	return cmd
}

func (c *command) run(ctx context.Context) (err error) {
	if c.remote, err = c.a.Connect(); err != nil && !c.undo && !c.confirm {
		return err
	}
	if c.engine, err = c.host.Engine(); err != nil {
		return err
	}
	defer c.engine.Close()
	if c.all, err = c.containers(ctx); err != nil {
		return err
	}
	if c.project, err = find(c.name, c.all); err != nil {
		return err
	}
	if err := os.Mkdir(c.host.Journals, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of the journals (adopt-project runs as root): %w", err)
	}
	// A journal says which files root replaces.
	if err := safefile.CheckFolder(c.host.Journals); err != nil {
		return err
	}
	path := journalPath(c.host.Journals, c.project)
	unlock, err := safefile.Lock(ctx, path+".lock", time.Second)
	if err != nil {
		return fmt.Errorf("another drover adopt-project %s runs: %w", c.name, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if c.j, err = loadJournal(path); err != nil {
		return err
	}
	switch {
	case c.j == nil && (c.undo || c.confirm):
		return dataset.Errorf(dataset.ErrNotFound, "project %s has no move to undo or confirm: there is no journal %s",
			c.name, path)
	case c.j == nil:
		return c.begin(ctx, path)
	}
	c.project = c.j.Project
	if c.confirm {
		return c.keep()
	}
	if c.undo {
		return c.goBack(ctx)
	}
	return c.resume(ctx)
}

// begin makes a plan, asks, and carries it out.
func (c *command) begin(ctx context.Context, path string) error {
	j, err := c.plan(ctx)
	if err == nil && (c.o.DryRun || !c.o.JSON()) {
		err = c.showPlan(j)
	}
	if err == nil && len(j.Items) == 0 {
		err = dataset.Errorf(dataset.ErrNotFound, "project %s has nothing to move", c.name)
	}
	if err != nil || c.o.DryRun {
		return err
	}
	err = c.ask("move project "+c.name, "stops the containers, and recreates those with moved mounts",
		"sets the old data aside, and copies it into the new volumes", "writes "+c.project.override())
	if err != nil {
		return err
	}
	// Somebody may have changed the project while the question was open.
	now, err := c.read(ctx)
	if err == nil {
		c.all, err = c.containers(ctx)
	}
	if err != nil {
		return err
	}
	if difference(c.model, now) != "" || !maps.Equal(j.Services, c.project.running(c.all)) {
		return dataset.Errorf(dataset.ErrConflict, "project %s was edited, started or stopped since the plan was made "+
			"(begin again)", c.name)
	}
	c.j, j.path = j, path
	return c.move(ctx)
}

func (c *command) ask(action string, effects ...string) error {
	return c.yes.Ask(c.a, cli.Question{Action: action, Effects: effects, Name: c.name})
}

// resume continues a move that was interrupted.
func (c *command) resume(ctx context.Context) error {
	undo := "drover adopt-project " + c.name + " --undo"
	switch {
	case c.j.Undoing:
		return dataset.Errorf(dataset.ErrConflict, "project %s is going back (continue: %s)", c.name, undo)
	case c.j.Step == stepDone:
		return dataset.Errorf(dataset.ErrExists, "project %s is moved already (keep it: drover adopt-project %s "+
			"--confirm, or go back: %s)", c.name, c.name, undo)
	case !reflect.DeepEqual(c.j.Settings, c.settings):
		return dataset.Errorf(dataset.ErrConflict, "a move of project %s with other flags was interrupted (continue "+
			"it with the same flags, or go back: %s)", c.name, undo)
	case c.o.DryRun:
		return c.report("dry run: would continue the move of project " + c.name + " at step " + c.j.Step)
	}
	return c.move(ctx)
}

func (c *command) move(ctx context.Context) error {
	if err := c.carryOut(ctx); err != nil {
		return err
	}
	var lines []string
	for _, i := range c.j.Items {
		lines = append(lines, "moved "+i.Source+" to volume "+i.Volume+": "+i.Bytes.Human()+", compared")
	}
	lines = append(lines, "wrote "+c.project.override())
	if len(c.j.Services) > 0 {
		lines = append(lines, "started and checked "+strings.Join(slices.Sorted(maps.Keys(c.j.Services)), ", "))
	}
	return c.report(append(lines, "project "+c.name+" is moved. Test it. Then keep it: drover adopt-project "+c.name+
		" --confirm, or go back: drover adopt-project "+c.name+" --undo")...)
}

func (c *command) goBack(ctx context.Context) error {
	err := c.ask("undo the move of project "+c.name, "removes "+c.project.override(),
		"starts the containers with the old data: what was written since the move is only in the new volumes")
	if err != nil {
		return err
	}
	if err := c.undoMove(ctx); err != nil {
		return fmt.Errorf("undo the move of project %s (the same command tries again): %w", c.name, err)
	}
	failed := c.start(ctx)
	if failed != nil && ctx.Err() != nil {
		return dataset.Errorf(dataset.ErrCancelled, "not all containers are started with the old data: %w", failed)
	}
	// Nothing that the command could repeat would help a service that does not start.
	if err := c.j.remove(); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("project %s is back at its old data, and the move has ended, but not everything runs "+
			"(repair the cause, then run docker compose up -d --force-recreate): %w", c.name, failed)
	}
	lines := []string{"project " + c.name + " is back: it uses its old data"}
	for _, i := range c.j.Items {
		if i.Copied {
			lines = append(lines, "the new volume stays; drover volume rm --dry-run "+i.Volume+" shows what it has")
		}
	}
	return c.report(lines...)
}

// keep confirms a move: it can no longer be undone.
func (c *command) keep() error {
	if c.j.Undoing || c.j.Step != stepDone {
		return dataset.Errorf(dataset.ErrConflict, "the move of project %s is not complete (continue it: drover "+
			"adopt-project %s, or go back: drover adopt-project %s --undo)", c.name, c.name, c.name)
	}
	lines := []string{"project " + c.name + " keeps its new volumes; keep " + c.project.override() + ", too"}
	for _, i := range c.j.Items {
		lines = append(lines, "the old data is unchanged, and you may remove it: "+i.Folder+keptSuffix)
	}
	return errors.Join(c.j.remove(), c.report(lines...))
}

// report prints lines or, with -o json, the journal.
func (c *command) report(lines ...string) error {
	if c.o.JSON() {
		return cli.JSON(c.a.Out, c.j)
	}
	for _, l := range lines {
		if err := c.a.PrintLine("%s", cli.Clean(l)); err != nil {
			return err
		}
	}
	return nil
}

func (c *command) showPlan(j *Journal) error {
	if c.o.JSON() {
		return cli.JSON(c.a.Out, j)
	}
	table := cli.NewTable("SOURCE", "MOUNTS", "SIZE", "NEW VOLUME", "PROFILE", "NOT MOVED")
	for _, i := range slices.Concat(j.Items, j.Skipped) {
		size := ""
		if i.Reason == "" {
			size = i.Bytes.Human()
		}
		table.Row(i.Source, strings.Join(i.Mounts, ", "), size, i.Volume, i.Profile, i.Reason)
	}
	if err := table.Write(c.a.Out); err != nil || len(j.Items) == 0 {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(j.Override, "\n"), "\n")
	return c.report(append([]string{"", c.project.override() + " will be:"}, lines...)...)
}
