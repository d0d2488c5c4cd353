package backups

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
