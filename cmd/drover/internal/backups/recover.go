package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// recovery has the flags of drover recover.
type recovery struct {
	app         *cli.App
	out         *cli.Output
	from        string // name or URL of the repository
	name        string // name for a repository that is not recorded
	password    string
	credentials string // path of the file with the keys of an S3 server
	insecure    bool   // the URL may have no TLS
	at          string // a moment: the newest backup that is not later is used
	profile     string // profile of all volumes; empty: each gets the one that it had
	profileSize bool
	all         bool
	cluster     string    // UUID of the cluster whose backups are used, or its first digits; empty: see chooseCluster
	other       uuid.UUID // the other cluster whose backups are used; uuid.Nil: none
	takeOver    bool
	keepApart   bool
	rehearsal   bool // restore into temporary volumes, and report
	parallel    uint
	profiles    []api.ListedProfile // those that are recorded
	volumes     []api.Volume        // those that exist
	note        string              // text after the name of a repository that the command records; can be empty
}

// RecoverCommand makes drover recover.
func RecoverCommand(a *cli.App) *cobra.Command {
	r := &recovery{app: a, parallel: 2}
	cmd := &cobra.Command{
		Use:        "recover [VOLUME...]",
		SuggestFor: []string{"restore"},
		Short:      "List the volumes of a repository, and bring them back",
		Long: `Bring volumes back from the backups in a repository, for example on an empty
machine. Without VOLUME and --all, the command only lists the volumes.

Each volume is created from its newest backup, with the name, profile, size and
labels that it had. If the volume had files that the backup lacks, its recovery
fails. If several volumes of a cluster have or had a name, --all does not
recover it: name it to use the newest backup, or use drover backup restore.

If another cluster made the backups, --all asks whether that cluster is gone.
Then the recovered volumes take over: they are backed up as their profiles say
(--take-over). Otherwise they are kept apart: they make no scheduled backups
into the repository that they came from, and drover status names them until that
is decided (--keep-apart). Without a terminal, --all needs one of the two. A
volume that is named is kept apart without --take-over. Repeat the command with
--take-over to decide later. If several clusters have backups in the repository,
--cluster chooses one.

A volume that exists is never changed. If the command is interrupted or some
volumes fail, repeat it: it waits for restores that still run, and creates only
the volumes that are absent. drover operation cancel cancels a restore.

--from is the name of a recorded repository, or a URL as for drover repository
add. A repository that is not recorded is opened with --password and then
recorded. Its name is --name, or else the one that the profiles back up to, or
else the end of the URL. None is made. --at uses the newest backups that are not
later than a time, and fails for a volume that exists.

--rehearse restores the backups into temporary volumes, compares each file with
the backup, removes the volumes, and reports how long that took and how old the
backups are. It changes no volume, so it also works where the volumes exist. It
needs the space of the volumes that are restored at the same time.`,
		Example: `  drover recover --from /mnt/nas/backups \
    --password file:/etc/drover/offsite.pass
  drover recover --from offsite --all --dry-run
  drover recover --from offsite --all --rehearse
  drover recover --from offsite db web`,
		Args: cobra.ArbitraryArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	r.out = cli.OutputFlags(cmd, false)
	r.addFlags(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, volumes []string) error {
		if err := r.checkFlags(cmd, volumes); err != nil {
			return err
		}
		return r.run(cmd.Context(), c, volumes)
	})
	return cmd
}

// checkFlags fails if the flags or the names of volumes contradict each other.
func (r *recovery) checkFlags(cmd *cobra.Command, volumes []string) error {
	switch {
	case r.from == "":
		return cli.UsageError(cmd, "missing flag: --from NAME or --from URL (drover store recover repairs the "+
			"records of a cluster)")
	case r.all && len(volumes) > 0:
		return cli.UsageError(cmd, "--all cannot be combined with names of volumes")
	case r.takeOver && r.keepApart:
		return cli.UsageError(cmd, "--take-over cannot be combined with --keep-apart")
	case r.parallel == 0:
		return cli.UsageError(cmd, "--parallel must be at least 1")
	case r.out.DryRun && !r.all && len(volumes) == 0:
		return cli.UsageError(cmd, "--dry-run needs VOLUME or --all (without them, the command only lists)")
	case !r.rehearsal:
		return nil
	case r.out.DryRun:
		return cli.UsageError(cmd, "--rehearse cannot be combined with --dry-run")
	case !r.all && len(volumes) == 0:
		return cli.UsageError(cmd, "--rehearse needs VOLUME or --all (without them, the command only lists)")
	case r.parallel > maxRehearsals:
		return cli.UsageError(cmd, "--parallel %d: a host verifies at most %d backups at a time", r.parallel,
			maxRehearsals)
	}
	return nil
}

func (r *recovery) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.from, "from", "", "name or URL of the `REPOSITORY`")
	f.StringVar(&r.name, "name", "", "record the repository of the URL as `NAME`")
	f.StringVar(&r.password, "password", "", "`SOURCE` of the password: file:PATH or exec:PATH")
	f.StringVar(&r.credentials, "credentials-file", "", "`FILE` with S3 keys or a token, on each node")
	f.BoolVar(&r.insecure, "insecure", false, "allow a URL without TLS (s3:http://…), in a private network")
	f.StringVar(&r.at, "at", "", "use no backup later than `TIME`, or than so long ago, such as 2d")
	f.StringVar(&r.profile, "profile", "", "create all volumes with this `PROFILE`")
	f.BoolVar(&r.profileSize, "profile-size", false, "give the volumes the sizes of their profiles")
	f.BoolVar(&r.all, "all", false, "recover all volumes that are absent")
	f.StringVar(&r.cluster, "cluster", "", "use the backups of the cluster with this `UUID`, or its first digits")
	f.BoolVar(&r.takeOver, "take-over", false, "the cluster that made the backups is gone: back up the volumes there")
	f.BoolVar(&r.keepApart, "keep-apart", false, "that cluster may still exist: make no scheduled backups there")
	f.BoolVar(&r.rehearsal, "rehearse", false, "restore into temporary volumes, compare, remove them, and report")
	f.UintVar(&r.parallel, "parallel", r.parallel, "number of volumes to recover at the same time")
	cli.DryRunFlag(cmd, r.out)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("password", cobra.FixedCompletions(
		[]string{"file:", "exec:"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
}

func (r *recovery) run(ctx context.Context, c cli.Remote, volumes []string) error {
	latest := time.Time{}
	if r.at != "" {
		var err error
		if latest, err = cli.ParseTime(r.app.Now(), "at", r.at); err != nil {
			return err
		}
	}
	repository, err := r.repository(ctx, c)
	if err != nil {
		return err
	}
	list, incomplete, err := r.candidates(ctx, c, repository, latest)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		if incomplete != nil {
			return incomplete
		}
		return dataset.Errorf(dataset.ErrNotFound, "repository %s has no backups of volumes%s", repository,
			map[bool]string{true: " that are old enough", false: ""}[r.at != ""])
	}
	if !r.all && len(volumes) == 0 {
		if err := r.print(ctx, c, repository, list); err != nil {
			return err
		}
		return incomplete
	}
	if r.all {
		list = r.withoutFormerNames(list)
	} else {
		if list, err = r.selected(list, repository, volumes, incomplete); err != nil {
			return err
		}
	}
	r.noteUnused(list)
	if incomplete != nil {
		r.app.PrintError(ctx, fmt.Errorf("some backups cannot be read, so newer ones of these volumes may exist: %w",
			incomplete))
	}
	if err := r.decide(list, repository); err != nil {
		return err
	}
	do := r.recoverAll
	if r.rehearsal {
		do = func(ctx context.Context, c cli.Remote, list []*candidate) error {
			return r.rehearse(ctx, c, repository, list)
		}
	}
	if err := do(ctx, c, list); err != nil {
		return err
	}
	if incomplete != nil {
		return fmt.Errorf("not all backups of repository %s can be read (drover repository check %[1]s)", repository)
	}
	return nil
}

// command returns the command line that reads the same backups of a repository.
func (r *recovery) command(repository string) string {
	line := "drover recover --from " + repository
	if r.cluster != "" {
		line += " --cluster " + r.cluster
	}
	if r.at != "" {
		line += fmt.Sprintf(" --at %q", r.at)
	}
	if r.profile != "" {
		line += " --profile " + r.profile
	}
	if r.profileSize {
		line += " --profile-size"
	}
	if r.keepApart {
		line += " --keep-apart"
	}
	if r.takeOver {
		line += " --take-over"
	}
	return line
}

// restoredAs returns a candidate for a volume that takes over, and was restored under a name that has no backup. It
// returns nil if there is no such volume.
func (r *recovery) restoredAs(repository, volume string) *candidate {
	i := slices.IndexFunc(r.volumes, func(v api.Volume) bool { return v.Volume == volume && v.KeptApart != nil })
	if i < 0 || !r.takeOver || r.other != uuid.Nil && r.other != r.volumes[i].KeptApart.Cluster {
		return nil
	}
	cand := &candidate{Backup: api.VolumeBackup{Repository: repository, Volume: volume}}
	cand.found(stateExists, r.volumes[i])
	return cand
}

// selected returns the candidates with the given names. It fails if one of them is unknown, so that a typing error is
// found before a volume is created.
func (r *recovery) selected(list []*candidate, repository string, volumes []string, incomplete error) ([]*candidate,
	error) {
	byName := map[string]*candidate{}
	for _, cand := range list {
		byName[cand.Backup.Volume] = cand
	}
	var out []*candidate
	for _, volume := range volumes {
		cand := cmp.Or(byName[volume], r.restoredAs(repository, volume))
		byName[volume] = cand
		switch {
		case cand == nil && incomplete != nil:
			return nil, fmt.Errorf("no backup that can be read is of a volume %q: %w", dataset.Clip(volume), incomplete)
		case cand == nil:
			return nil, dataset.Errorf(dataset.ErrNotFound,
				"repository %s has no backup of a volume %q (%s lists the volumes)",
				repository, dataset.Clip(volume), r.command(repository))
		case cand.chosen:
			continue
		}
		cand.chosen = true
		out = append(out, cand)
	}
	return out, nil
}

// repository returns the name of the repository to read. If --from is a URL that is not recorded, the repository is
// opened and recorded.
func (r *recovery) repository(ctx context.Context, c cli.Remote) (string, error) {
	if !strings.ContainsAny(r.from, "/:") {
		known, err := c.Repository(ctx, r.from)
		if errors.Is(err, dataset.ErrNotFound) {
			return "", dataset.Errorf(dataset.ErrNotFound, "repository %q is not recorded (drover repository ls lists "+
				"the recorded ones, or give its URL: --from URL --password SOURCE)", dataset.Clip(r.from))
		}
		if err != nil {
			return "", err
		}
		return known.Name, r.checkAccess(known)
	}
	place, err := dataset.ParseRepositoryURL(r.from)
	if err != nil {
		return "", err
	}
	recorded, err := c.Repositories(ctx)
	if err != nil {
		return "", err
	}
	for _, known := range recorded {
		if known.URL == place && (r.name == "" || r.name == known.Name) {
			return known.Name, r.checkAccess(known)
		}
	}
	n := api.NewRepository{Name: r.name, URL: place, CredentialsFile: r.credentials, Insecure: r.insecure}
	if n.Name == "" {
		var wanted bool
		if n.Name, wanted, err = r.nameOf(ctx, c, place, recorded); err != nil {
			return "", err
		}
		if wanted {
			r.note = ", to which the profiles back up (--name chooses another name)"
		}
	}
	return n.Name, r.record(ctx, c, n)
}

// checkAccess fails if --password or --credentials-file differs from the record of a repository, because the command
// would use the record.
func (r *recovery) checkAccess(known dataset.Repository) error {
	if r.credentials != "" && r.credentials != known.CredentialsFile {
		return dataset.Errorf(dataset.ErrExists, "repository %s is recorded with %s (leave out --credentials-file, or "+
			"use a URL with another --name)", known.Name, cmp.Or(known.CredentialsFile, "no credentials file"))
	}
	if r.password == "" {
		return nil
	}
	source, err := dataset.ParsePasswordSource(r.password)
	if err == nil && source != known.Password {
		return dataset.Errorf(dataset.ErrExists, "repository %s is recorded with the password of %s (leave out "+
			"--password, or use a URL with another --name)", known.Name, known.Password)
	}
	return err
}

// record opens a repository, and records it. It never makes one: an empty place means that the disk is not mounted, or
// that the URL is wrong.
func (r *recovery) record(ctx context.Context, c cli.Remote, n api.NewRepository) (err error) {
	switch {
	case r.out.DryRun:
		return dataset.Errorf(dataset.ErrInvalid, "repository %s is not recorded, and a dry run records nothing "+
			"(without --dry-run, --all and VOLUME, the command records it and lists its volumes)", dataset.Clip(n.URL))
	case r.password == "":
		return dataset.Errorf(dataset.ErrInvalid,
			"repository %s is not recorded: its password is needed (--password file:PATH or --password exec:PATH)",
			dataset.Clip(n.URL))
	}
	if n.Password, err = dataset.ParsePasswordSource(r.password); err != nil {
		return err
	}
	if _, err := n.Repository().Checked(); err != nil {
		return err
	}
	if _, err := c.CheckRepository(ctx, api.RepositoryCheck{New: &n}); err != nil {
		return err
	}
	if _, err := c.AddRepository(ctx, n); err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.app.ErrOut, "drover: added repository %s%s\n", n.Name, r.note)
	return err
}

// defaultName is the name of a recorded repository if neither the profiles nor its URL give a name.
const defaultName = "recovered"

// nameOf returns a name for a repository: the one that the profiles back up to, if that is a single name and not
// recorded, so that scheduled backups go on. Otherwise it is the last element of the URL, if that is a valid name that
// no recorded repository has, or defaultName. isWanted reports whether the profiles gave the name.
func (r *recovery) nameOf(
	ctx context.Context, c cli.Remote, url string, recorded []dataset.Repository,
) (name string, isWanted bool, err error) {
	profiles, err := c.Profiles(ctx)
	if err != nil {
		return "", false, err
	}
	taken := map[string]bool{}
	for _, known := range recorded {
		taken[known.Name] = true
	}
	wanted := map[string]bool{}
	for _, p := range profiles {
		if p.Backup.To != "" && !taken[p.Backup.To] {
			wanted[p.Backup.To] = true
		}
	}
	if len(wanted) == 1 {
		for name := range wanted {
			return name, true, nil
		}
	}
	if name := path.Base(url); dataset.CheckRepositoryName(name) == nil && !taken[name] {
		return name, false, nil
	}
	return defaultName, false, nil
}

// withoutFormerNames leaves out the volumes that have a newer backup under another name, and says so: a container that
// uses the former name, which was an alias, must not find the old content.
func (r *recovery) withoutFormerNames(list []*candidate) []*candidate {
	return slices.DeleteFunc(list, func(cand *candidate) bool {
		if cand.renamed == "" {
			return false
		}
		_, _ = fmt.Fprintf(r.app.ErrOut, "drover: volume %s was renamed: %s has its newer backups, and %[1]s is left "+
			"out (%[3]s %[1]s recovers it, too)\n", cli.Clean(cand.Backup.Volume), cli.Clean(cand.renamed),
			r.command(cand.Backup.Repository))
		return true
	})
}

// noteUnused prints which backups of the candidates' names are not used although one could expect it: those of other
// volumes that have or had the same names, and those whose time is in the future.
func (r *recovery) noteUnused(list []*candidate) {
	for _, cand := range list {
		name := cli.Clean(cand.Backup.Volume)
		for _, b := range cand.Older {
			_, _ = fmt.Fprintf(r.app.ErrOut, "drover: another volume has or had the name %s: its newest backup "+
				"is %s, taken %s (drover backup restore %[2]s NEW)\n", name, short(b.ID),
				cli.When(r.app.Now(), b.Taken))
		}
		if cand.future != nil {
			noteFuture(r.app, *cand.future)
		}
	}
}
