package nodes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// fetching has the flags of drover store export with --from.
type fetching struct {
	app         *cli.App
	flags       *daemon.Flags
	out         *cli.Output
	from        string // URL or name of the repository
	password    string
	credentials string
	at          string
	cluster     string // UUID, or its first digits
}

func (f *fetching) add(cmd *cobra.Command) {
	f.out = cli.OutputFlags(cmd, false)
	fl := cmd.Flags()
	fl.StringVar(&f.from, "from", "", "URL or name of the `REPOSITORY` with stored records")
	fl.StringVar(&f.password, "password", "", "`SOURCE` of the password: file:PATH or exec:PATH")
	fl.StringVar(&f.credentials, "credentials-file", "", "`FILE` with S3 keys or a token")
	fl.StringVar(&f.at, "at", "", "use no stored records later than `TIME`, or than so long ago, such as 2d")
	fl.StringVar(&f.cluster, "cluster", "", "`UUID` of the cluster, or its first digits")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("password", cobra.FixedCompletions(
		[]string{"file:", "exec:"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
}

func (f *fetching) run(ctx context.Context, args []string) (err error) {
	latest := time.Time{}
	if f.at != "" {
		if latest, err = cli.ParseTime(f.app.Now(), "at", f.at); err != nil {
			return err
		}
	}
	log, err := daemon.NewLogger(f.flags.Level, daemon.Auto, f.app.Getenv)
	if err != nil {
		return err
	}
	o, err := f.flags.Options(f.app, log)
	if err != nil {
		return err
	}
	record, err := f.repository(ctx)
	if err != nil {
		return err
	}
	cache, err := os.MkdirTemp("", "drover-fetch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cache)) }()
	r, err := daemon.OpenRepository(ctx, o, cache, record)
	if err != nil {
		return err
	}
	list, incomplete := daemon.List(ctx, r)
	if len(list) == 0 {
		return cmp.Or(incomplete, dataset.Errorf(dataset.ErrNotFound, "repository %s has no records of control "+
			"(a single host stores them within about 10 minutes after the repository is added; drover repository set "+
			"NAME --store-records has them stored in any case)", dataset.Clip(f.from)))
	}
	if incomplete != nil {
		f.app.PrintError(ctx, fmt.Errorf("some records cannot be read, so newer ones may exist: %w", incomplete))
	}
	if list = f.matching(list, latest); len(list) == 0 {
		return dataset.Errorf(dataset.ErrNotFound, "repository %s has no records of control that match (without --at "+
			"and --cluster, the command lists all)", dataset.Clip(f.from))
	}
	if len(args) == 0 {
		return f.print(list)
	}
	if latest.IsZero() {
		list = f.byAge(list)
	}
	return f.fetch(ctx, r, list, args[0])
}

// repository returns the record of the repository: that of the drover of this host, or a new one for a URL.
func (f *fetching) repository(ctx context.Context) (dataset.Repository, error) {
	if !strings.ContainsAny(f.from, "/:") {
		if f.password != "" || f.credentials != "" {
			return dataset.Repository{}, dataset.Errorf(dataset.ErrInvalid, "--password and --credentials-file apply "+
				"only to a URL: repository %s is recorded with its own", dataset.Clip(f.from))
		}
		c, err := f.app.Connect()
		if err != nil {
			return dataset.Repository{}, err
		}
		return c.Repository(ctx, f.from)
	}
	if f.password == "" {
		return dataset.Repository{}, dataset.Errorf(dataset.ErrInvalid, "the password of repository %s is needed "+
			"(--password file:PATH or --password exec:PATH)", dataset.Clip(f.from))
	}
	source, err := dataset.ParsePasswordSource(f.password)
	return dataset.Repository{
		Name: "fetched", URL: f.from, Password: source, CredentialsFile: f.credentials,
	}, err
}

// matching returns the exports that the flags choose.
func (f *fetching) matching(list []daemon.Stored, latest time.Time) (out []daemon.Stored) {
	for _, s := range list {
		if (latest.IsZero() || !s.Taken.After(latest)) && strings.HasPrefix(s.Cluster.String(), f.cluster) {
			out = append(out, s)
		}
	}
	return out
}

// byAge moves the exports with a time in the future, when a clock was ahead, to the end of the list, and says so.
func (f *fetching) byAge(list []daemon.Stored) []daemon.Stored {
	begin := slices.IndexFunc(list, func(s daemon.Stored) bool {
		return !s.Taken.After(f.app.Now().Add(dataset.MaxClockSkew))
	})
	if begin <= 0 {
		return list
	}
	_, _ = fmt.Fprintf(f.app.ErrOut, "drover: the records that were stored at %s are dated in the future: not taken "+
		"as the newest (--at TIME uses them)\n", cli.When(f.app.Now(), list[0].Taken))
	return slices.Concat(list[begin:], list[:begin])
}

func (f *fetching) print(list []daemon.Stored) error {
	if f.out.JSON() {
		return cli.JSONList(f.app.Out, list)
	}
	t := cli.NewTable("STORED", "CLUSTER", "VOLUMES")
	for _, s := range list {
		t.Row(cli.When(f.app.Now(), s.Taken), s.Cluster.String(), fmt.Sprint(s.Volumes))
	}
	return t.Write(f.app.Out)
}

// fetch writes the newest of the exports to a file. It checks the file before the file appears.
func (f *fetching) fetch(ctx context.Context, r *restic.Repository, list []daemon.Stored, file string) error {
	newest, clusters := list[0], map[uuid.UUID]bool{}
	var names []string
	for _, s := range list {
		if !clusters[s.Cluster] {
			clusters[s.Cluster] = true
			names = append(names, s.Cluster.String())
		}
	}
	if len(names) > 1 {
		return dataset.Errorf(dataset.ErrAmbiguous, "repository %s has the records of %d clusters (choose one with "+
			"--cluster: %s)", dataset.Clip(f.from), len(names), dataset.FormatChoices(names))
	}
	var sum dump.Summary
	err := cli.Write("export", file, func(w io.Writer) error {
		to, ok := w.(io.ReadWriteSeeker)
		if !ok {
			return dataset.Errorf(dataset.ErrInternal, "the new file cannot be read again")
		}
		err := daemon.Read(ctx, r, newest, to)
		if err == nil {
			_, err = to.Seek(0, io.SeekStart)
		}
		if err == nil {
			sum, err = dump.Check(to)
		}
		if err != nil {
			err = fmt.Errorf("the records that were stored at %s UTC: %w (--at uses earlier ones)",
				newest.Taken.UTC().Format(time.DateTime), err)
		}
		return err
	})
	if err != nil {
		return err
	}
	if f.out.JSON() {
		return cli.JSON(f.app.Out, newest)
	}
	return f.app.PrintLine("fetched %s, stored %s, to %s", describeDump(sum), cli.When(f.app.Now(), newest.Taken), file)
}
