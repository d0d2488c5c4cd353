package projects

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/confirm"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// lockWait is how long the command waits for another run for the same project.
const lockWait = time.Second

// command is one run of drover adopt-project.
type command struct {
	a    *cli.App
	host Host
	o    *cli.Output
	yes  *confirm.Flag

	name          string
	volumes       []string // NAME=SPEC
	settings      Settings
	undo, confirm bool

	engine  Engine
	remote  cli.Remote
	project Project
	all     []Container
	journal *Journal
}

// Command makes drover adopt-project.
func Command(a *cli.App, host Host) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "adopt-project PROJECT",
		SuggestFor: []string{"compose", "project"},
		Short:      "Move a Docker Compose project into volumes of Drover, or back",
		Long: `Move the data of a Docker Compose project of this host into volumes of Drover:
its volumes of Docker's driver local, and the directories that it mounts. The
command shows a plan and asks. Then it stops the project's containers, copies
the data, compares the copies, exchanges the Compose files, starts the
containers that ran before, and checks that they run.

In the Compose files only the lines of the moved mounts and volumes change.
Comments, order and quotes stay. The old file is kept beside the new one, as
FILE.before-drover. The old volumes and directories are never changed.

Mounts of single files, sockets, folders of the system, and data that other
containers use are not moved. The plan gives the reason for each one.

The project can go back until --confirm: --undo puts the old Compose files
back, and the containers use the old data again. What was written since the
move is then only in the new volumes, which stay. If the command is
interrupted, run it again: it continues.

--leave moves a project from volumes of Drover into volumes of the driver
local, with the same steps.`,
		Example: `  drover adopt-project blog --profile gold --dry-run
  drover adopt-project blog --profile gold --volume db_data=blog-db@gold --skip ./config
  drover adopt-project blog --undo
  drover adopt-project blog --confirm`,
		Args:              cli.Args(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c := &command{a: a, host: host, o: cli.OutputFlags(cmd, false), yes: confirm.AddFlag(cmd)}
	cli.DryRunFlag(cmd, c.o)
	f := cmd.Flags()
	f.StringVar(&c.settings.Profile, "profile", "", "the `PROFILE` of the new volumes (default: the default profile)")
	f.StringArrayVar(&c.volumes, "volume", nil,
		"the `NAME=SPEC` of a new volume: NAME is a volume or a directory of the Compose file, SPEC may be @PROFILE")
	f.StringArrayVar(&c.settings.Skip, "skip", nil, "leave out a volume or a directory of the Compose file, by `NAME`")
	f.StringArrayVar(&c.settings.Files, "file", nil,
		"a Compose `FILE` of the project, in the order of docker compose (default: those of its containers)")
	f.BoolVar(&c.settings.Leave, "leave", false, "move from volumes of Drover into volumes of Docker's driver local")
	f.BoolVar(&c.undo, "undo", false, "go back to the old Compose files and the old data")
	f.BoolVar(&c.confirm, "confirm", false, "keep the new state, and forget how to go back")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("profile", cli.Complete(a, cli.ProfileWords)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("volume", cobra.NoFileCompletions))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("skip", cobra.NoFileCompletions))
	cmd.MarkFlagsMutuallyExclusive("undo", "confirm", "dry-run")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.name = args[0]
		if err := c.check(cmd); err != nil {
			return err
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		return c.run(ctx)
	}
	return cmd
}

// check checks the command line.
func (c *command) check(cmd *cobra.Command) error {
	planned := c.settings.Leave || c.settings.Profile != "" || len(c.volumes)+len(c.settings.Skip) > 0
	if (c.undo || c.confirm) && planned {
		return cli.UsageError(cmd, "--undo and --confirm take no other flags than --file and --yes")
	}
	if c.settings.Leave && (c.settings.Profile != "" || len(c.volumes) > 0) {
		return cli.UsageError(cmd, "--leave makes volumes of the driver local, which have no --profile and no --volume")
	}
	for n, f := range c.settings.Files {
		abs, err := filepath.Abs(f)
		if err != nil {
			return err
		}
		c.settings.Files[n] = abs
	}
	c.settings.Volumes = nil
	for _, v := range c.volumes {
		name, spec, ok := strings.Cut(v, "=")
		if !ok || name == "" || spec == "" {
			return cli.UsageError(cmd, "--volume %q: expected NAME=SPEC, such as db_data=blog-db@gold", dataset.Clip(v))
		}
		if c.settings.Volumes == nil {
			c.settings.Volumes = map[string]string{}
		}
		c.settings.Volumes[name] = spec
	}
	if c.name == "" || strings.ContainsAny(c.name, "/\x00") {
		return cli.UsageError(cmd, "%q is no name of a Compose project (docker compose ls --all lists them)",
			dataset.Clip(c.name))
	}
	if !c.a.SameHost() {
		return dataset.Errorf(dataset.ErrUnsupported, "adopt-project works on the host of the engine, and the "+
			"server at %s may be on another (run drover there)", c.a.Address())
	}
	return nil
}

// run finds the project and its journal. It then moves the project, confirms the move, or undoes it, as the flags say.
func (c *command) run(ctx context.Context) (err error) {
	if c.remote, err = c.a.Connect(); err != nil && !c.undo && !c.confirm {
		return err
	}
	if c.engine, err = c.host.Engine(); err != nil {
		return err
	}
	defer c.engine.Close()
	if c.all, err = containers(ctx, c.engine); err != nil {
		return err
	}
	if c.project, err = find(c.name, c.settings.Files, c.all, c.host.Journals); err != nil {
		return err
	}
	if err := prepareJournals(c.host.Journals); err != nil {
		return err
	}
	path := journalPath(c.host.Journals, c.project.Dir, c.name)
	unlock, err := safefile.Lock(ctx, path+".lock", lockWait)
	if err != nil {
		return fmt.Errorf("another drover adopt-project %s runs: %w", c.name, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if c.journal, err = loadJournal(path, c.project); err != nil {
		return err
	}
	switch {
	case c.undo:
		return c.goBack(ctx)
	case c.confirm:
		return c.keep()
	case c.journal == nil:
		return c.begin(ctx)
	}
	return c.resume(ctx)
}

// begin makes a plan, asks, and carries it out.
func (c *command) begin(ctx context.Context) error {
	p := &planner{c.a, c.host, c.engine, c.remote, c.project, c.settings, c.all, model{}}
	plan, err := p.plan(ctx)
	started := false
	defer func() {
		if !started {
			removeNew(plan)
		}
	}()
	if err != nil {
		return err
	}
	if err := c.showPlan(plan); err != nil {
		return err
	}
	if len(plan.Items) == 0 {
		return dataset.Errorf(dataset.ErrNotFound, "project %s has nothing to move", c.name)
	}
	if c.o.DryRun {
		return nil
	}
	if err := c.ask(plan); err != nil {
		return err
	}
	if err := c.checkUnchanged(ctx, plan); err != nil {
		return err
	}
	j := &Journal{
		Version: journalVersion, ID: c.a.NewID(), Project: c.project, Settings: c.settings, Begun: c.a.Now().UTC(),
		Step: StepStop, Items: plan.Items, Services: plan.Services,
		path: journalPath(c.host.Journals, c.project.Dir, c.name),
	}
	for _, e := range plan.edited {
		if len(e.Notes) > 0 {
			j.Files = append(j.Files, newExchange(plan.texts[e.Path], e))
		}
	}
	if err := j.save(); err != nil {
		return err
	}
	started = true
	c.journal = j
	return c.move(ctx)
}

// checkUnchanged fails with dataset.ErrConflict if the project has changed since the plan was made, for example while
// the question was open.
func (c *command) checkUnchanged(ctx context.Context, plan Plan) error {
	all, err := containers(ctx, c.engine)
	if err != nil {
		return err
	}
	if now := running(c.name, all); !maps.Equal(now, plan.Services) {
		return dataset.Errorf(dataset.ErrConflict, "containers of project %s were started or stopped since the plan "+
			"was made (begin again)", c.name)
	}
	for _, path := range slices.Sorted(maps.Keys(plan.texts)) {
		now, err := sumOf(path)
		if err != nil {
			return err
		}
		if now != sum(plan.texts[path]) {
			return dataset.Errorf(dataset.ErrConflict, "%s was edited since the plan was made (begin again)", path)
		}
	}
	return nil
}

// removeNew removes the changed files of a plan that is not carried out.
func removeNew(plan Plan) {
	for _, e := range plan.edited {
		if len(e.Notes) > 0 {
			_ = os.Remove(e.Path + newSuffix) // the next plan replaces a file that stays
		}
	}
}

// ask asks for the confirmation of a plan.
func (c *command) ask(plan Plan) error {
	effects := []string{"stops " + cmp.Or(names(plan.Services), "nothing, because no container runs")}
	if len(plan.Recreated) > 0 {
		effects = append(effects,
			"recreates the containers of "+strings.Join(plan.Recreated, ", ")+", which do not run")
	}
	for _, i := range plan.Items {
		effects = append(effects, "moves "+i.Source+" to volume "+i.Volume)
	}
	for _, f := range plan.Changes {
		effects = append(effects, "changes "+f.Path)
	}
	return c.yes.Ask(c.a, confirm.Question{Action: "move project " + c.name, Effects: effects, Name: c.name})
}

// resume continues a move that was interrupted.
func (c *command) resume(ctx context.Context) error {
	j := c.journal
	undo := "drover adopt-project " + c.name + " --undo"
	switch {
	case j.Undoing:
		return dataset.Errorf(dataset.ErrConflict, "project %s is going back, and was interrupted (continue: "+
			"%s)", c.name, undo)
	case j.Step == StepDone && j.Settings.Leave == c.settings.Leave:
		return dataset.Errorf(dataset.ErrExists, "project %s is moved already (keep it: drover adopt-project %s "+
			"--confirm, or go back: %s)", c.name, c.name, undo)
	case j.Step == StepDone:
		return dataset.Errorf(dataset.ErrConflict, "the last move of project %s is not confirmed (keep it first: "+
			"drover adopt-project %s --confirm, or go back: %s)", c.name, c.name, undo)
	case !sameSettings(j.Settings, c.settings):
		return dataset.Errorf(dataset.ErrConflict, "a move of project %s with other flags was interrupted (continue "+
			"it with the same flags, or go back: %s)", c.name, undo)
	case c.o.DryRun:
		return c.printf("dry run: would continue the move of project %s at step %s", c.name, j.Step)
	}
	if err := checkVersion(ctx, c.host.Compose); err != nil {
		return err
	}
	if err := c.printf("continuing the move of project %s of %s", c.name, show.When(c.a.Now(), j.Begun)); err != nil {
		return err
	}
	return c.move(ctx)
}

func sameSettings(a, b Settings) bool {
	return a.Profile == b.Profile && a.Leave == b.Leave && slices.Equal(a.Skip, b.Skip) &&
		slices.Equal(a.Files, b.Files) &&
		(len(a.Volumes) == 0 && len(b.Volumes) == 0 || reflect.DeepEqual(a.Volumes, b.Volumes))
}

func (c *command) mover() *mover {
	return &mover{a: c.a, host: c.host, engine: c.engine, remote: c.remote, j: c.journal, quiet: c.o.JSON()}
}

// move carries out the steps of the journal, and reports the result.
func (c *command) move(ctx context.Context) error {
	if err := c.mover().run(ctx); err != nil {
		return err
	}
	if c.o.JSON() {
		return show.JSON(c.a.Out, c.journal)
	}
	for _, i := range c.journal.Items {
		if err := c.printf("moved %s to volume %s: %s, compared", i.Source, i.Volume, i.Bytes.Human()); err != nil {
			return err
		}
	}
	for _, x := range c.journal.Files {
		if err := c.printf("changed %s (the old file: %s)", x.Path, filepath.Base(x.Old)); err != nil {
			return err
		}
	}
	state := "no container ran, so none was started"
	if len(c.journal.Services) > 0 {
		state = "started and checked " + names(c.journal.Services)
	}
	if err := c.printf("%s", state); err != nil {
		return err
	}
	return c.printf("project %s is moved. Test it. Then keep it: drover adopt-project %s --confirm, or go back: "+
		"drover adopt-project %s --undo", c.name, c.name, c.name)
}

// goBack undoes the move of the journal.
func (c *command) goBack(ctx context.Context) error {
	if c.journal == nil {
		return c.noMove("undone")
	}
	effects := []string{"puts the old Compose files back, and starts the containers with the old data"}
	if c.journal.Step == StepDone || c.journal.Step == StepStart {
		effects = append(effects, "what was written since "+show.When(c.a.Now(), c.journal.Begun)+" stays in the "+
			"new volumes only")
	}
	err := c.yes.Ask(c.a, confirm.Question{Action: "undo the move of project " +
		"" + c.name, Effects: effects, Name: c.name})
	if err != nil {
		return err
	}
	u, err := c.mover().undo(ctx)
	if err != nil {
		return fmt.Errorf("undo the move of project %s (the same command tries again): %w", c.name, err)
	}
	if err := c.showUndone(ctx, u); err != nil {
		return err
	}
	if u.problem != nil {
		return fmt.Errorf("project %s is back at its old Compose files and its old data, and the move has ended, but "+
			"not everything runs (repair the cause, then run docker compose up -d --force-recreate): %w", c.name,
			u.problem)
	}
	return nil
}

// madeVolumes returns the items whose volumes the move has made. A volume of another origin can have the name that the
// plan has chosen.
func (c *command) madeVolumes(ctx context.Context) ([]Item, error) {
	var made []Item
	for _, i := range c.journal.Items {
		mine := false
		var err error
		if c.journal.Settings.Leave {
			var v Volume
			v, err = c.engine.Volume(ctx, i.Volume)
			mine = v.Labels[labelMove] == c.journal.ID.String()
		} else if c.remote == nil {
			err = dataset.Errorf(dataset.ErrUnavailable, "there is no connection to Drover")
		} else {
			var v api.Volume
			v, err = c.remote.Volume(ctx, i.Volume)
			mine = v.Request == i.Request
		}
		switch {
		case errors.Is(err, dataset.ErrNotFound):
		case err != nil:
			return nil, err
		case mine:
			made = append(made, i)
		}
	}
	return made, nil
}

// keep confirms a move: it removes the journal, so that the move can no longer be undone.
func (c *command) keep() error {
	switch {
	case c.journal == nil:
		return c.noMove("confirmed")
	case c.journal.Undoing || c.journal.Step != StepDone:
		return dataset.Errorf(dataset.ErrConflict, "the move of project %s is not complete (continue it: drover "+
			"adopt-project %s, or go back: drover adopt-project %s --undo)", c.name, c.name, c.name)
	}
	if err := c.journal.remove(); err != nil {
		return err
	}
	if c.o.JSON() {
		return show.JSON(c.a.Out, c.journal)
	}
	if err := c.printf("project %s keeps its new volumes", c.name); err != nil {
		return err
	}
	return c.printNext("the old data is unchanged; to remove it:", c.journal.Items, c.journal.Settings.Leave,
		func(i Item) string { return i.Source })
}
