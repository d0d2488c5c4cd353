// Package volumes has the commands of drover volume, drover snapshot, drover trash and drover copy, and drover
// clone. They call the API, and keep no state. The table of drover volume ls is made from summaries
// (api.VolumeSummary), so a new column may need a new field there.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TrashCommand makes drover trash with its subcommands.
func TrashCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "trash",
		Short: "Manage deleted volumes",
	},
		newTrashLsCmd(a), newTrashRestoreCmd(a), newTrashPurgeCmd(a),
	)
}

func newTrashLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[api.Volume]{
		Short: "List the datasets in the trash, latest deleted first",
		Long: `List the datasets in the trash, latest deleted first. A dataset that was purged
is listed as pending deletion until its data is destroyed, with the reason.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.Volume, error) {
			return cli.FetchAll(ctx, c.Trash)
		}),
		ID:      id,
		Columns: func(trashed []api.Volume) []cli.Column[api.Volume] { return trashColumns(a, trashed) },
		Compare: func(x, y api.Volume) int { return deletionTime(y).Compare(deletionTime(x)) },
		Moment:  &cli.Moment[api.Volume]{Of: deletionTime, Verb: "deleted"},
		Labels:  cli.OwnLabels(func(v api.Volume) map[string]string { return v.Labels }),
	})
}

func id(v api.Volume) string { return v.ID.String() }

func deletionTime(v api.Volume) time.Time {
	if v.Trash == nil {
		return time.Time{}
	}
	return v.Trash.At
}

func trashColumns(a *cli.App, trashed []api.Volume) []cli.Column[api.Volume] {
	return []cli.Column[api.Volume]{
		cli.UUID("DATASET", trashed, func(v api.Volume) uuid.UUID { return v.ID }),
		cli.Volume("VOLUME", func(v api.Volume) string { return v.Volume }),
		{Header: "PROFILE", Cell: func(v api.Volume) string { return v.Profile.Name }},
		{Header: "SIZE", Cell: func(v api.Volume) string { return cli.SizeOr(v.Size, "no limit") },
			Compare: cli.By(func(v api.Volume) dataset.Size { return cli.Limit(v.Size) })},
		{Header: "IN POOL", Cell: func(v api.Volume) string { return sizeInPool(v.Status) },
			Compare: cli.By(func(v api.Volume) dataset.Size { return *v.Status.InPool })},
		{Header: "POOL", Cell: func(v api.Volume) string { return v.PoolName }},
		{Header: "SNAPSHOTS", Cell: func(v api.Volume) string { return strconv.Itoa(v.Snapshots) },
			Compare: cli.By(func(v api.Volume) int { return v.Snapshots })},
		cli.Time(a, "DELETED", deletionTime),
		{Header: "EXPIRES", Cell: func(v api.Volume) string { return expiry(a, v) },
			Compare: cli.By(func(v api.Volume) int64 {
				if expiryTime(v).IsZero() {
					return math.MaxInt64 // never
				}
				return expiryTime(v).Unix()
			})},
		{Header: "NODE", Wide: true, Cell: func(v api.Volume) string { return v.Node }},
		{Header: "LABELS", Wide: true,
			Cell: func(v api.Volume) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
		{Header: "UUID", Wide: true, Cell: id},
	}
}

// expiry says when the data of a dataset in the trash is destroyed.
func expiry(a *cli.App, v api.Volume) string {
	switch {
	case v.State == dataset.StatePurging:
		return "pending deletion: " + v.Pending
	case v.Trash != nil && v.Trash.Expires.IsZero():
		return "never"
	}
	return cli.Ago(a.Now(), expiryTime(v))
}

func expiryTime(v api.Volume) time.Time {
	if v.Trash == nil {
		return time.Time{}
	}
	return v.Trash.Expires
}

func newTrashRestoreCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "restore DATASET [NAME]",
		SuggestFor: []string{"undelete"},
		Short:      "Restore a deleted volume, under its old name or another",
		Long: `Restore a deleted volume, under its old name or another. DATASET is a prefix of
its UUID, as drover trash ls shows it, or the old name, if only one dataset in
the trash had it.`,
		Example: `  drover trash restore db
  drover trash restore f23ca986 db-old`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.TrashWords, cli.NoWords),
	}
	o := cli.OutputFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpUndelete, Volume: args[0]}
		if len(args) > 1 {
			req.Name = args[1]
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, fmt.Sprintf("would restore dataset %s as a volume", d.ID)
			}
			return d.ID, fmt.Sprintf("restored volume %s: dataset %s", d.Volume, d.ID)
		})
	}
	return cmd
}

func newTrashPurgeCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "purge [DATASET...]",
		Aliases:    []string{"rm", "remove", "delete"},
		SuggestFor: []string{"empty"},
		Short:      "Destroy datasets in the trash, or all, for good",
		Long: `Destroy datasets in the trash with their snapshots for good, or with --all every
dataset in the trash. The command shows what is lost, and the name of each
volume (or all) must be typed to confirm it, unless --yes is given. A wrong name
stops the command before anything is destroyed. If some of several datasets
cannot be purged, the others are. -o json prints a list for several.`,
		Example: `  drover trash purge db
  drover trash purge f23ca986 web --dry-run`,
		Args:              cli.Args(0),
		ValidArgsFunction: cli.CompleteEach(a, cli.TrashWords),
	}
	o := cli.WorkFlags(cmd, false)
	yes := cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	var every bool
	cmd.Flags().BoolVar(&every, "all", false, "purge everything in the trash")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		switch {
		case every && len(args) > 0:
			return cli.UsageError(cmd, "--all purges everything in the trash: use it without DATASET")
		case !every && len(args) == 0:
			return cli.UsageError(cmd, "missing argument for %s: DATASET or --all", cli.CommandName(cmd))
		}
		trashed, err := cli.FetchAll(cmd.Context(), c.Trash)
		if err != nil {
			return err
		}
		if every {
			return purgeAll(cmd.Context(), a, c, o, trashed, yes)
		}
		selected, err := selectTrashed(trashed, args)
		if err != nil {
			return err
		}
		if err := confirmPurges(cmd.Context(), a, c, o, selected, yes); err != nil {
			return err
		}
		return purge(cmd.Context(), a, c, o, selected, len(selected) > 1)
	})
	return cmd
}

// selectTrashed returns the datasets in the trash that refs name, each once. It fails if one of refs names none.
func selectTrashed(trashed []api.Volume, refs []string) (selected []api.Volume, err error) {
	for _, ref := range refs {
		v, err := findInTrash(trashed, ref)
		if errors.Is(err, dataset.ErrNotFound) && ref == "all" {
			err = fmt.Errorf("%w; to see what a purge of everything destroys: drover trash purge --all --dry-run", err)
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(selected, func(s api.Volume) bool { return s.ID == v.ID }) {
			selected = append(selected, v)
		}
	}
	return selected, nil
}

// confirmPurges asks for a confirmation for each dataset. Before each question it asks control whether the purge is
// allowed, and fails if it is not.
func confirmPurges(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, selected []api.Volume,
	yes *cli.Flag) error {
	if o.DryRun || yes.Given() {
		return nil
	}
	for _, v := range selected {
		req := api.Request{Kind: dataset.OpPurge, Volume: v.ID.String()}
		if err := a.CheckAllowed(ctx, c, o, req); err != nil {
			return err
		}
		if err := yes.Ask(a, cli.Question{
			Action:  "purge dataset " + v.ID.String(),
			Effects: []string{"formerly volume " + v.Volume + ": " + Destroyed(v)},
			Name:    v.Volume,
		}); err != nil {
			return err
		}
	}
	return nil
}

// findInTrash finds a dataset in the trash. Several datasets can have the same name, so the error about an ambiguous
// name lists the pool of each.
//
// A dataset that waits for its deletion is ignored if another dataset in the trash, which does not wait, has the same
// name.
func findInTrash(trashed []api.Volume, ref string) (api.Volume, error) {
	isWaiting := func(v api.Volume) bool { return v.Volume == ref && v.State == dataset.StatePurging }
	if slices.ContainsFunc(trashed, func(v api.Volume) bool { return v.Volume == ref && !isWaiting(v) }) {
		trashed = slices.DeleteFunc(slices.Clone(trashed), isWaiting)
	}
	short := ShortDatasets(trashed)
	var same []string
	last := ""
	for _, v := range trashed {
		if v.Volume == ref {
			last = short(v.ID)
			same = append(same, fmt.Sprintf("%s in pool %s of node %s", last, v.PoolName, v.Node))
		}
	}
	if len(same) > 1 {
		return api.Volume{}, dataset.Errorf(dataset.ErrAmbiguous,
			"%q matches several datasets in the trash: %s (choose one, for example drover trash purge %s --dry-run)",
			ref, strings.Join(same, ", "), last)
	}
	return cli.Find(trashed, "dataset in the trash", ref,
		func(v api.Volume) string { return v.Volume }, func(v api.Volume) uuid.UUID { return v.ID })
}

// purge purges datasets: see submitEach.
func purge(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, trashed []api.Volume, several bool) error {
	submit := func(v api.Volume) (api.Outcome, error) {
		out, err := a.Submit(ctx, c, o, api.Request{Kind: dataset.OpPurge, Volume: v.ID.String()})
		switch {
		case err == nil || out.Operation != nil && cli.IsPendingPurge(*out.Operation):
			return out, nil
		case several && !errors.Is(err, dataset.ErrCancelled):
			err = fmt.Errorf("dataset %s, formerly volume %s: %w", v.ID, v.Volume, err)
		}
		return out, err
	}
	describe := func(v api.Volume, out api.Outcome) (uuid.UUID, string) { return describePurged(o, v, out) }
	return submitEach(ctx, a, o, several, trashed, "datasets were not purged", submit, describe)
}

func describePurged(o *cli.Output, v api.Volume, out api.Outcome) (uuid.UUID, string) {
	if o.DryRun {
		return v.ID, fmt.Sprintf("would purge dataset %s, formerly volume %s: %s", v.ID, v.Volume, Destroyed(v))
	}
	line := fmt.Sprintf("purged dataset %s, formerly volume %s", v.ID, v.Volume)
	if out.Operation != nil && cli.IsPendingPurge(*out.Operation) {
		line = fmt.Sprintf("dataset %s, formerly volume %s, is pending deletion: pool %s is offline, and the data "+
			"is destroyed when it is online again (drover trash ls)", v.ID, v.Volume, v.PoolName)
	}
	return v.ID, line
}

// purgeAllQuestion has one line for each dataset in the trash.
func purgeAllQuestion(trashed []api.Volume) cli.Question {
	q := cli.Question{Action: "purge all " + cli.Count(len(trashed), "dataset") + " in the trash", Name: "all"}
	short := ShortDatasets(trashed)
	for _, v := range trashed {
		q.Effects = append(q.Effects, fmt.Sprintf("%s, formerly volume %s: %s", short(v.ID), v.Volume, Destroyed(v)))
	}
	return q
}

// purgeAll purges the datasets in trashed that are not being purged yet, after a confirmation.
func purgeAll(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, trashed []api.Volume, yes *cli.Flag) error {
	trashed = slices.DeleteFunc(trashed, func(v api.Volume) bool { return v.State == dataset.StatePurging })
	if len(trashed) == 0 && !o.JSON() {
		return a.PrintLine("the trash is empty")
	}
	if len(trashed) > 0 && !o.DryRun {
		if err := yes.Ask(a, purgeAllQuestion(trashed)); err != nil {
			return err
		}
	}
	return purge(ctx, a, c, o, trashed, true)
}
