package backups

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// RepositoryCommand makes drover repository with its subcommands.
func RepositoryCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "repository",
		Aliases:    []string{"repo"},
		SuggestFor: []string{"remote", "remotes"},
		Short:      "Manage repositories for backups and pushed versions",
	},
		newAddCmd(a), newRepositoryLsCmd(a), newVersionsCmd(a), newSetCmd(a),
		newCheckCmd(a), newRepositoryRmCmd(a),
	)
}

func newRepositoryLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[dataset.Repository]{
		Short: "List the repositories",
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]dataset.Repository, error) {
			return c.Repositories(ctx)
		}),
		ID: func(r dataset.Repository) string { return r.Name },
		Columns: func([]dataset.Repository) []cli.Column[dataset.Repository] {
			return []cli.Column[dataset.Repository]{
				{Header: "NAME", Cell: func(r dataset.Repository) string { return r.Name }},
				{Header: "URL", Cell: func(r dataset.Repository) string { return r.URL }},
				{Header: "PASSWORD", Cell: func(r dataset.Repository) string { return r.Password.String() }},
				cli.Time(a, "CREATED", func(r dataset.Repository) time.Time { return r.Created }),
				{Header: "CREDENTIALS", Wide: true,
					Cell: func(r dataset.Repository) string { return r.CredentialsFile }},
				{Header: "MAX UPLOAD", Wide: true, Cell: uploadLimit},
				{Header: "MAX READ", Wide: true, Cell: readLimit},
				{Header: "RECORDS", Wide: true, Cell: recordsSetting},
				{Header: "BY", Wide: true, Cell: func(r dataset.Repository) string { return r.By }},
			}
		},
		Compare: cli.By(func(r dataset.Repository) string { return r.Name }),
	})
}

// repositoryDigits is how many characters of the ID of a repository are printed. restic prints as many.
const repositoryDigits = 10

func idOf(state api.RepositoryState) string { return state.ID[:min(repositoryDigits, len(state.ID))] }

// added is the JSON output of add.
type added struct {
	Repository dataset.Repository  `json:"repository"`
	State      api.RepositoryState `json:"state"`
	known      bool                // the repository was recorded before
}

func newAddCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "add NAME URL",
		SuggestFor: []string{"create", "init", "new"},
		Short:      "Add a repository for backups and pushed versions",
		Long: `Add a repository for backups and pushed versions, in the format of restic. The
server's host first opens the repository with restic. If there is none at the
URL, it makes one, and the command says so. Then the repository is recorded for
the whole cluster. The record has no secret: it names the file or the program
that has the password.

URL is one of:
  /PATH                        a directory
  sftp://USER@HOST//PATH       a directory of another host, by OpenSSH
  s3:https://HOST/BUCKET/PATH  a bucket of an S3 server
  rest:https://HOST/PATH       a server of restic's REST protocol

The password comes from file:PATH, a file that only root can read, or from
exec:PATH, a program below /etc/drover that prints it. Each node that uses the
repository needs the file or the program. Keep a copy of the password elsewhere:
without it, nobody can read the backups. --credentials-file has the keys of an
S3 server, in the format of ~/.aws/credentials. For a URL of rest, its first
line is USER:PASSWORD, and the certificate of the server can follow.
--max-upload limits how fast a backup is sent, and --max-read how fast it reads
the volume, so that it leaves the network, the disk and the CPU to others.
--store-records has control store its records there. drover repository set
changes all three.`,
		Example: `  drover repository add offsite /mnt/nas/backups \
    --password file:/etc/drover/offsite.pass
  drover repository add s3 s3:https://s3.example.com/backups \
    --password exec:/etc/drover/print-password \
    --credentials-file /etc/drover/s3.credentials`,
		Args: cli.Args(2), ValidArgsFunction: cobra.NoFileCompletions,
	}
	password, n := "", api.NewRepository{}
	cmd.Flags().StringVar(&password, "password", "", "`SOURCE` of the password: file:PATH or exec:PATH")
	settingFlags(cmd)
	accessFlags(cmd, &n)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("password", cobra.FixedCompletions(
		[]string{"file:", "exec:"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if password == "" {
			return cli.UsageError(cmd, "missing flag: --password file:PATH or --password exec:PATH")
		}
		if n.Password, err = dataset.ParsePasswordSource(password); err != nil {
			return err
		}
		n.Name, n.URL = args[0], args[1]
		if err := complete(cmd, &n); err != nil {
			return err
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		result, err := add(cmd.Context(), c, n)
		if err != nil {
			return err
		}
		warnOfSame(cmd.Context(), a, c, result.Repository)
		if o.JSON() {
			return cli.JSON(a.Out, result)
		}
		return printAdded(a, result)
	}
	return cmd
}

// warnOfSame warns if a repository is also recorded under another name.
func warnOfSame(ctx context.Context, a *cli.App, c cli.Remote, r dataset.Repository) {
	recorded, err := c.Repositories(ctx)
	if err != nil {
		return // it is only a warning
	}
	for _, other := range recorded {
		if other.URL == r.URL && other.Name != r.Name {
			_, _ = fmt.Fprintf(a.ErrOut, "drover: repository %s has the same URL: the same backups are now listed "+
				"under both names (drover repository rm %s removes the new record, and "+
				"no backup)\n", other.Name, r.Name)
			return
		}
	}
}

// complete adds the settings of the flags to a new repository, and checks it.
func complete(cmd *cobra.Command, n *api.NewRepository) error {
	if err := parseSettings(cmd, n); err != nil {
		return err
	}
	checked, err := n.Repository().Checked()
	n.URL = checked.URL
	return err
}

// printAdded prints what add did.
func printAdded(a *cli.App, result added) error {
	did := "opened"
	if result.State.Created {
		did = "made"
	}
	if err := a.PrintLine("%s repository %s at %s", did, idOf(result.State), result.Repository.URL); err != nil {
		return err
	}
	if result.known {
		return a.PrintLine("repository %s was recorded already", result.Repository.Name)
	}
	return a.PrintLine("added repository %s", result.Repository.Name)
}

// add opens or makes a repository, and records it. A repository that is recorded already is only opened: if it is gone,
// it must not be made again without its backups. If the name belongs to another repository, nothing is made.
func add(ctx context.Context, c cli.Remote, n api.NewRepository) (added, error) {
	known, err := c.Repository(ctx, n.Name)
	switch {
	case err == nil && !known.SamePlace(n.Repository()):
		_, err := c.AddRepository(ctx, n) // control's error says what differs
		return added{}, err
	case err != nil && !errors.Is(err, dataset.ErrNotFound):
		return added{}, err
	}
	isKnown := err == nil
	state, err := c.CheckRepository(ctx, api.RepositoryCheck{New: &n, Init: !isKnown})
	if err != nil {
		return added{}, err
	}
	recorded, err := c.AddRepository(ctx, n)
	return added{recorded, state, isKnown}, err
}

// accessFlags adds the flags that say how nodes reach a new repository.
func accessFlags(cmd *cobra.Command, n *api.NewRepository) {
	f := cmd.Flags()
	f.StringVar(&n.CredentialsFile, "credentials-file", "", "`FILE` with S3 keys or USER:PASSWORD, on each node")
	f.BoolVar(&n.Insecure, "insecure", false, "allow a URL without TLS (s3:http://…), in a private network")
}

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
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		n := api.NewRepository{}
		if err := parseSettings(cmd, &n); err != nil {
			return err
		}
		if n.MaxUpload == nil && n.MaxRead == nil && n.StoreRecords == nil {
			return cli.UsageError(cmd, "missing flag: --max-upload SIZE, --max-read SIZE or --store-records")
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
	})
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

func newCheckCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Check a repository for missing and damaged data",
		Long: `Check a repository from the server's host: that the password opens it, and that
no data is missing. Only --read-data finds data that is damaged: it reads the
given percentage of the data, chosen at random. It can take hours, and has idle
I/O priority. Ctrl-C ends the check.

restic has the repository for itself during a check: it refuses backups to the
repository meanwhile. A host runs at most two checks at a time.`,
		Example: `  drover repository check offsite
  drover repository check offsite --read-data 10`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	var percent string
	cmd.Flags().StringVar(&percent, "read-data", "", "also read `PERCENT` of the data")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		req := api.RepositoryCheck{Name: args[0]}
		if cmd.Flags().Changed("read-data") {
			n, err := strconv.Atoi(strings.TrimSuffix(percent, "%"))
			if err != nil || n < 1 || n > 100 {
				return cli.UsageError(cmd, "bad --read-data %q: expected 1 to 100, without fractions",
					dataset.Clip(percent))
			}
			req.ReadDataPercent = n
		}
		state, err := c.CheckRepository(cmd.Context(), req)
		switch {
		case err != nil:
			return err
		case o.JSON():
			return cli.JSON(a.Out, state)
		case req.ReadDataPercent > 0:
			return a.PrintLine("repository %s (%s): no data is missing, and %d%% of the data was read without errors",
				req.Name, idOf(state), req.ReadDataPercent)
		}
		return a.PrintLine("repository %s (%s): no data is missing", req.Name, idOf(state))
	})
	return cmd
}

func newRepositoryRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove the record of a repository",
		Long: `Remove the record of a repository. The data in the repository stays, and so do
the files with its password: drover repository add adds it again.

While the profile of a volume has it backed up to the repository, the command is
refused. With --force, the record is removed, and these backups fail.

The name of the repository must be typed to confirm the command, unless --yes is
given.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	force := cmd.Flags().Bool("force", false, "also if scheduled backups use it")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx := cmd.Context()
		r, err := c.Repository(ctx, args[0])
		place := "at " + r.URL
		// A damaged record can only be removed. For an unknown name, the server reads all records to suggest a name, so
		// ErrCorrupt can also be about another record: the error must name this one.
		if dataset.KindOf(err) == dataset.ErrCorrupt && strings.Contains(err.Error(), " repositories/"+args[0]+" ") {
			r, place, err = dataset.Repository{Name: args[0]}, "where it is", nil
		}
		if err != nil {
			return err
		}
		format := "removed repository %s: its data stays %s"
		if o.DryRun {
			if !*force {
				if err := checkUnused(ctx, c, r.Name); err != nil {
					return err
				}
			}
			format = "dry run: would remove repository %s: its data stays %s"
		} else {
			err := yes.Ask(a, cli.Question{
				Action: "remove repository " + r.Name, Name: r.Name,
				Effects: []string{"removes the record of the repository; its data stays " + place},
			})
			if err != nil {
				return err
			}
			if err := c.RemoveRepository(ctx, r.Name, *force); err != nil {
				return err
			}
		}
		return a.PrintResult(o, r, format, r.Name, place)
	})
	return cmd
}

// checkUnused fails with dataset.ErrInUse if the server would refuse to remove a repository without force: if the
// profile of a volume, also of one in the trash, schedules backups to it.
func checkUnused(ctx context.Context, c cli.Remote, repository string) error {
	live, err := cli.FetchAll(ctx, c.Volumes)
	if err != nil {
		return err
	}
	trashed, err := cli.FetchAll(ctx, c.Trash)
	if err != nil {
		return err
	}
	users := func(volumes []api.Volume) (names []string) {
		for _, v := range volumes {
			if v.Profile.Backup.To == repository {
				names = append(names, v.Volume)
			}
		}
		return names
	}
	if names := users(live); len(names) > 0 {
		return dataset.Errorf(dataset.ErrInUse, "repository %s would not be removed: volumes are backed up to it on "+
			"schedule: %s (give them another profile: drover volume set-profile)", repository,
			dataset.FormatChoices(names))
	}
	if names := users(trashed); len(names) > 0 {
		return dataset.Errorf(dataset.ErrInUse, "repository %s would not be removed: volumes in the trash would be "+
			"backed up to it once they are restored: %s (drover trash ls; or use --force)", repository,
			dataset.FormatChoices(names))
	}
	return nil
}
