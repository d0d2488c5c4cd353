package projects

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func (c *command) noMove(what string) error {
	return dataset.Errorf(dataset.ErrNotFound, "project %s has no move that can be %s: there is no journal "+
		"%s", c.name, what,
		journalPath(c.host.Journals, c.project.Dir, c.name))
}

// printNext prints how to remove the volumes or directories that name returns, and the old Compose files. ofDrover says
// that the volumes are those of Drover, and not those of the driver local.
func (c *command) printNext(intro string, items []Item, ofDrover bool, name func(Item) string) error {
	lines := []string{intro}
	for _, i := range items {
		switch n := name(i); {
		case i.New && n == i.Source:
		case ofDrover:
			volume, _, _ := strings.Cut(n, "@")
			lines = append(lines, "  drover volume rm "+volume+" # with --dry-run it shows what is lost")
		case i.Dir && n == i.Source:
			lines = append(lines, "  the directory "+n)
		default:
			lines = append(lines, "  docker volume rm "+n)
		}
	}
	for _, x := range c.journal.Files {
		if _, err := os.Lstat(x.Old); err == nil {
			lines = append(lines, "  the old Compose file "+x.Old)
		}
	}
	if len(lines) == 1 {
		return nil
	}
	for _, l := range lines {
		if err := c.printf("%s", l); err != nil {
			return err
		}
	}
	return nil
}

// showPlan prints a plan. With -o json it prints the plan only for a dry run: otherwise move prints the journal at the
// end.
func (c *command) showPlan(plan Plan) error {
	if c.o.JSON() {
		if !c.o.DryRun {
			return nil
		}
		return show.JSON(c.a.Out, plan)
	}
	t := show.NewTable("SOURCE", "MOUNTS", "SIZE", "NEW VOLUME", "PROFILE", "NOTE")
	for _, i := range plan.Items {
		size, note := i.Bytes.Human(), i.Note
		if i.New {
			size, note = "-", "it does not exist yet"
		}
		t.Row(i.Source, strings.Join(i.Mounts, ", "), size, i.Volume, i.Profile, note)
	}
	if len(plan.Items) > 0 {
		if err := t.Write(c.a.Out); err != nil {
			return err
		}
	}
	if len(plan.Skipped) > 0 {
		skipped := show.NewTable("NOT MOVED", "MOUNTS", "REASON")
		for _, s := range plan.Skipped {
			skipped.Row(s.Source, strings.Join(s.Mounts, ", "), s.Reason)
		}
		if err := errors.Join(c.printf(""), skipped.Write(c.a.Out)); err != nil {
			return err
		}
	}
	if len(plan.Recreated) > 0 {
		err := c.printf("the containers of %s do not run: they are recreated with the new volumes, and not started",
			strings.Join(plan.Recreated, ", "))
		if err != nil {
			return err
		}
	}
	for _, f := range plan.Changes {
		for _, n := range f.Notes {
			if err := c.printf("%s:%d: %s", f.Path, n.Line, show.Clean(n.Text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// showUndone prints the result of an undo.
func (c *command) showUndone(ctx context.Context, u undone) error {
	if c.o.JSON() {
		return show.JSON(c.a.Out, c.journal)
	}
	lines := slices.Clone(u.warnings)
	for _, path := range u.edited {
		lines = append(lines, "the Compose file was edited since the move: your edited file is "+path)
	}
	if u.problem == nil {
		lines = append(lines, "project "+c.name+" is back: it uses its old Compose files and its old data")
	}
	for _, l := range lines {
		if err := c.printf("%s", show.Clean(l)); err != nil {
			return err
		}
	}
	made, err := c.madeVolumes(ctx)
	if err != nil {
		return c.printf("the new volumes stay, and it is not known which of them exist: %s", show.Clean(err.Error()))
	}
	return c.printNext("the new volumes stay; to remove them:", made, !c.journal.Settings.Leave,
		func(i Item) string { return i.Volume })
}

func (c *command) printf(format string, args ...any) error {
	if c.o.JSON() {
		return nil
	}
	return c.a.PrintLine(format, args...)
}
