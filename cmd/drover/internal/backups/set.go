package backups

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// storeRecords is the name of the flag that has control store its records.
const storeRecords = "store-records"

// settingFlags adds the flags of the settings that drover repository set changes.
func settingFlags(cmd *cobra.Command) {
	cmd.Flags().String(maxUpload, "", "the largest `SIZE` that a backup sends in a second; 0 for no limit")
	cmd.Flags().String(maxRead, "",
		"the largest `SIZE` that a backup reads in a second; 0 for no limit (default 64MiB)")
	cmd.Flags().Bool(storeRecords, false, "store the records of control in the repository (default: on a single host)")
}

// parseSettings writes the settings whose flags are used to n.
func parseSettings(cmd *cobra.Command, n *api.NewRepository) (err error) {
	if n.MaxUpload, err = parseLimit(cmd, maxUpload); err != nil {
		return err
	}
	n.StoreRecords = parseRecords(cmd)
	n.MaxRead, err = parseLimit(cmd, maxRead)
	return err
}

// parseRecords returns the value of the flag that has control store its records, or nil if the flag is not used.
func parseRecords(cmd *cobra.Command) *bool {
	f := cmd.Flags().Lookup(storeRecords)
	if !f.Changed {
		return nil
	}
	on := f.Value.String() == "true"
	return &on
}

// recordsSetting says whether control stores its records in a repository.
func recordsSetting(r dataset.Repository) string {
	switch {
	case r.StoreRecords == nil:
		return "on a single host"
	case *r.StoreRecords:
		return "yes"
	}
	return "no"
}

// Names of the flags that limit what a backup sends and reads in a second.
const (
	maxUpload = "max-upload"
	maxRead   = "max-read"
)

// parseLimit returns the value of a flag that limits backups, or nil if the flag is not used.
func parseLimit(cmd *cobra.Command, flag string) (*dataset.Size, error) {
	f := cmd.Flags().Lookup(flag)
	if !f.Changed {
		return nil, nil
	}
	if f.Value.String() == "0" {
		return new(dataset.Size), nil
	}
	limit, err := dataset.ParseSize(f.Value.String())
	if n, numErr := strconv.ParseFloat(f.Value.String(), 64); err != nil && numErr == nil && n > 0 {
		bare := dataset.Clip(f.Value.String())
		return nil, dataset.Errorf(dataset.ErrInvalid, "--%s %s: a bare number is ambiguous (use %sMiB for mebibytes "+
			"a second, or %sKiB for kibibytes)", flag, bare, bare, bare)
	}
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return &limit, nil
}

// uploadLimit returns the limit of uploads, such as "20MiB/s", or "" if there is none.
func uploadLimit(r dataset.Repository) string {
	if r.MaxUpload == 0 {
		return ""
	}
	return r.MaxUpload.String() + "/s"
}

// readLimit returns the limit of what a backup reads, such as "64MiB/s", or "none".
func readLimit(r dataset.Repository) string {
	if r.ReadLimit() == 0 {
		return "none"
	}
	return r.ReadLimit().String() + "/s"
}

func newSetCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the settings of a repository",
		Long: `Change how fast a backup is sent to a repository, how fast it reads the volume,
and whether control stores its records there. A limit applies to each backup, on
each node, from the next backup on. A backup that runs keeps the former limit. A
low limit makes backups long: at 20MiB, the first backup of 100 GiB takes an
hour and a half. A backup reads at most 64MiB in a second unless --max-read
changes it, so that it leaves the disk and the CPU to others.

With --store-records, control stores its records in the repository each hour if
they have changed: see drover store export. The control hosts then need restic
and the password. Everyone who has the password can read the records. Without
the setting, only a single host stores its records.`,
		Example: `  drover repository set offsite --max-upload 20MiB
  drover repository set offsite --max-upload 0
  drover repository set offsite --max-read 200MiB
  drover repository set offsite --store-records=false`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	settingFlags(cmd)
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n := api.NewRepository{}
		if err := parseSettings(cmd, &n); err != nil {
			return err
		}
		if n.MaxUpload == nil && n.MaxRead == nil && n.StoreRecords == nil {
			return cli.UsageError(cmd, "missing flag: --max-upload SIZE, --max-read SIZE or --store-records")
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		known, err := c.Repository(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		n.Name, n.URL, n.Password, n.CredentialsFile = known.Name, known.URL, known.Password, known.CredentialsFile
		n.Insecure = known.Insecure
		changed, err := c.AddRepository(cmd.Context(), n)
		switch {
		case err != nil:
			return err
		case o.JSON():
			return cli.JSON(a.Out, changed)
		}
		return printChanged(a, changed, n.MaxUpload != nil, n.MaxRead != nil, n.StoreRecords != nil)
	}
	return cmd
}

// printChanged prints those settings of a repository that were changed.
func printChanged(a *cli.App, r dataset.Repository, upload, read, records bool) (err error) {
	switch {
	case upload && r.MaxUpload == 0:
		err = a.PrintLine("backups to repository %s have no upload limit", r.Name)
	case upload:
		err = a.PrintLine("each backup to repository %s sends at most %s", r.Name, uploadLimit(r))
	}
	switch {
	case err != nil || !read:
	case r.ReadLimit() == 0:
		err = a.PrintLine("backups to repository %s have no read limit", r.Name)
	default:
		err = a.PrintLine("each backup to repository %s reads at most %s", r.Name, readLimit(r))
	}
	switch {
	case err != nil || !records:
		return err
	case *r.StoreRecords:
		return a.PrintLine("control stores its records in repository %s", r.Name)
	}
	return a.PrintLine("control does not store its records in repository %s", r.Name)
}
