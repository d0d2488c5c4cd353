package remotes

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/confirm"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// grantCommand makes drover remote grant with its subcommands.
func grantCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "grant",
		Short: "Let other clusters push to a repository of this one, and pull",
	}, newGrantCreateCmd(a), newGrantLsCmd(a), newGrantRmCmd(a))
}

// secretMark begins each secret, so that a tool that looks for secrets in files can find it.
const secretMark = "drover-grant-"

// createdGrant is the JSON output of grant create. The token is absent if it was written to a file.
type createdGrant struct {
	Grant dataset.Grant `json:"grant"`
	Token string        `json:"token,omitempty"`
}

func newGrantCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a token with which another cluster uses a repository",
		Long: `Create a token with which another cluster uses a repository of this one as a
remote: it can pull and, with --push, also push. The repository must be a
directory. A host that has the directory serves it if the drover.yaml of the
host has the key remotes.

The token is printed only now, and stored nowhere. With --out it is written to
that file, which only its owner can read. The operator of the other cluster
needs three things: the token, the certificate of the host in the file
remotes/ca.pem of Drover's root, and the password of the repository.

With --quota, a push is refused if the directory would become larger. All files
in it count, also those of others.`,
		Example: `  drover remote grant create ann --repository team --push \
    --quota 50GiB --expires 90d --out ann.token`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	var in api.NewGrant
	var out, quota, expires string
	o := cli.OutputFlags(cmd, false)
	f := cmd.Flags()
	f.StringVar(&in.Repository, "repository", "", "`REPOSITORY` that the other cluster may use")
	f.BoolVar(&in.Push, "push", false, "the other cluster may also push")
	f.StringVar(&quota, "quota", "", "largest `SIZE` of the directory for a push, such as 50GiB")
	f.StringVar(&expires, "expires", "", "how long the token is valid: `TIME` such as 90d")
	f.StringVar(&out, "out", "", "write the token to `FILE` instead of printing it")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if in.Repository == "" {
			return cli.UsageError(cmd, "missing flag: --repository REPOSITORY")
		}
		in.Name = args[0]
		if quota != "" {
			if in.Quota, err = dataset.ParseSize(quota); err != nil {
				return err
			}
		}
		if expires != "" {
			life, err := dataset.ParseDuration(expires)
			if err != nil {
				return err
			}
			in.Expires = a.Now().Add(life)
		}
		var random [32]byte
		_, _ = rand.Read(random[:]) // never fails: crypto/rand
		secret := secretMark + base64.RawURLEncoding.EncodeToString(random[:])
		sum := sha256.Sum256([]byte(secret))
		in.SecretHash = hex.EncodeToString(sum[:])
		if err := in.Grant().Check(); err != nil {
			return err
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		made, err := c.AddGrant(cmd.Context(), in)
		if err != nil {
			return err
		}
		return printGrant(a, o.JSON(), out, createdGrant{made, made.Name + ":" + secret})
	}
	return cmd
}

// printGrant prints a new grant, or writes its token to the file out unless it is empty.
func printGrant(a *cli.App, json bool, out string, g createdGrant) error {
	token := g.Token
	if out != "" {
		if err := durable.ReplaceShared(out, []byte(token+"\n")); err != nil {
			return fmt.Errorf("write the token: %w (remove the grant, and create it again: drover remote grant rm %s "+
				"--dry-run)", err, g.Grant.Name)
		}
		g.Token = ""
	}
	may := "pull from"
	if g.Grant.Push {
		may = "push to and pull from"
	}
	line := fmt.Sprintf("grant %s may %s repository %s", g.Grant.Name, may, g.Grant.Repository)
	switch {
	case json:
		return show.JSON(a.Out, g)
	case out != "":
		return a.PrintLine("%s: its token is in %s", line, out)
	}
	if _, err := fmt.Fprintf(a.ErrOut, "%s with this token, which is not printed again:\n", line); err != nil {
		return err
	}
	return a.PrintLine("%s", token)
}

func newGrantLsCmd(a *cli.App) *cobra.Command {
	return listing.New(a, listing.List[dataset.Grant]{
		Short: "List the grants for other clusters",
		Long: `List the grants for other clusters. USED is the size of all files of the
repository, as the quota counts them. LAST USE is when the token was used last
since Drover started. Only the host that serves the repository knows both: run
the command on it.`,
		Fetch: func(ctx context.Context, c cli.Remote) ([]dataset.Grant, error) { return c.Grants(ctx) },
		ID:    func(g dataset.Grant) string { return g.Name },
		Table: func(list []dataset.Grant) *show.Table {
			t := show.NewTable("NAME", "REPOSITORY", "RIGHTS", "QUOTA", "USED", "LAST USE", "EXPIRES", "CREATED")
			for _, g := range list {
				t.Row(g.Name, g.Repository, rightsOf(g), quotaOf(g), usedBy(g), lastUse(a, g), expiry(a, g),
					show.Ago(a.Now(), g.Created))
			}
			return t
		},
		Wide:   []listing.Column[dataset.Grant]{{Header: "BY", Cell: func(g dataset.Grant) string { return g.By }}},
		SortBy: map[string]string{"created": "created"},
	})
}

func rightsOf(g dataset.Grant) string {
	if g.Push {
		return "push, pull"
	}
	return "pull"
}

func quotaOf(g dataset.Grant) string {
	if g.Quota == 0 {
		return ""
	}
	return g.Quota.String()
}

// usedBy returns the size of the repository of a grant; empty if the host does not know it.
func usedBy(g dataset.Grant) string {
	if g.Use == nil || g.Use.Used == 0 {
		return ""
	}
	return g.Use.Used.Human()
}

// lastUse returns when a grant was used last; empty if the host does not know it.
func lastUse(a *cli.App, g dataset.Grant) string {
	switch {
	case g.Use == nil:
		return ""
	case g.Use.Last.IsZero():
		return "not since " + g.Use.Since.Format("2006-01-02 15:04")
	}
	return show.Ago(a.Now(), g.Use.Last)
}

func expiry(a *cli.App, g dataset.Grant) string {
	switch {
	case g.Expires.IsZero():
		return "never"
	case g.Expired(a.Now()):
		return "expired"
	}
	return g.Expires.Format("2006-01-02")
}

func newGrantRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a grant",
		Long: `Remove a grant. Its token is refused within seconds. Versions that were pushed
stay in the repository.

The name of the grant must be typed to confirm the command, unless --yes is
given.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, grantWords),
	}
	o, yes := cli.OutputFlags(cmd, false), confirm.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx, name := cmd.Context(), args[0]
		format := "removed grant %s: its token is refused within seconds"
		if o.DryRun {
			if err := checkGrant(ctx, c, name); err != nil {
				return err
			}
			format = "dry run: would remove grant %s"
		} else {
			err := yes.Ask(a, confirm.Question{
				Action: "remove grant " + name, Name: name,
				Effects: []string{"the cluster with its token can neither push nor pull any more"},
			})
			if err != nil {
				return err
			}
			if err := c.RemoveGrant(ctx, name); err != nil {
				return err
			}
		}
		if o.JSON() {
			return show.JSON(a.Out, map[string]string{"name": name})
		}
		return a.PrintLine(format, name)
	})
	return cmd
}

// checkGrant fails with dataset.ErrNotFound if there is no grant with a name.
func checkGrant(ctx context.Context, c cli.Remote, name string) error {
	list, err := c.Grants(ctx)
	if err != nil {
		return err
	}
	names := make([]string, len(list))
	for i, g := range list {
		if g.Name == name {
			return nil
		}
		names[i] = g.Name
	}
	return dataset.Errorf(dataset.ErrNotFound, "no such grant: %q (available: %s)%s", dataset.Clip(name),
		dataset.FormatChoices(names), dataset.Suggestion(name, names))
}

// grantWords lists the names of the grants.
func grantWords(ctx context.Context, c cli.Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Grants(ctx)
	out := make([]string, len(list))
	for i, g := range list {
		out[i] = g.Name + "\t" + g.Repository
	}
	return out, err
}
