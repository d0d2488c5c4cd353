package certificates

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// DefaultAuthority is app.authority outside of tests.
const DefaultAuthority = "/etc/drover/ca"

// Command makes drover ca with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "ca",
		Short: "Work with a cluster's certificate authority",
	},
		newCAInitCmd(a), newCARotateCmd(a), newCAIssueCmd(a), newCARevokeCmd(a),
	)
}

// dirFlag gives a command the folder of the authority.
func dirFlag(a *cli.App, cmd *cobra.Command) *string {
	return cmd.Flags().String("dir", a.Authority, "`DIR` of the certificate authority, on this host")
}

// Authority is what programs are told of one.
type Authority struct {
	Cluster     string `json:"cluster"`
	Fingerprint string `json:"fingerprint"` // of the newest root
	Dir         string `json:"dir"`
	Roots       int    `json:"roots"` // that are believed
}

func authorityOf(a *pki.Authority, dir string) Authority {
	return Authority{a.Cluster().String(), a.Fingerprint().String(), dir, len(a.Roots())}
}

func newCAInitCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the certificate authority of a new cluster",
		Long: `Make the certificate authority of a new cluster, in a folder of this host. Copy
the folder to each control host: whoever has it can make himself any member of
the cluster, so nobody else may read it. Keep one copy where no host is.

A folder that has one, or anything else, is refused. With --keep that one is
checked and stays, for what is run at each start, as by docker compose up.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	dir := cmd.Flags().String("dir", a.Authority, "`DIR` to make, on this host")
	keep := cmd.Flags().Bool("keep", false, "fine if there is one already: it stays")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *dir == "" { // as of a variable of a script that is not set
			return cli.UsageError(cmd, "--dir is empty: name the folder to make, or leave --dir out for %s",
				a.Authority)
		}
		made, err := pki.Create(*dir, a.Now())
		kept := *keep && errors.Is(err, dataset.ErrExists)
		if kept {
			made, err = pki.Load(*dir)
		}
		switch {
		case err != nil:
			return err
		case o.JSON():
			return show.JSON(a.Out, authorityOf(made, *dir))
		case kept:
			return a.Say("kept the certificate authority of cluster %s in %s", made.Cluster(), *dir)
		}
		return a.Say("made the certificate authority of cluster %s in %s; copy the folder to each control "+
			"host, which alone may read it", made.Cluster(), *dir)
	}
	return cmd
}

func newCARotateCmd(a *cli.App) *cobra.Command {
	var finish, force bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Give the certificate authority a new key",
		Long: `Give the certificate authority a new key, in its folder on this host. Copy the
folder to the other control hosts then, in any order: nobody is shut out on the
way. Nodes get new certificates by themselves within minutes; make new ones for
operators (drover ca issue). The old key's certificates are believed until
--finish, which is refused for 30 days.

With --finish --force that ends at once, for a key that somebody else may have:
nodes that have not heard of the new one by then must join anew.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir, o := dirFlag(a, cmd), cli.OutputFlags(cmd, false)
	cmd.Flags().BoolVar(&finish, "finish", false, "stop believing the key before")
	cmd.Flags().BoolVar(&force, "force", false, "with --finish: also before all nodes can have new certificates")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if force && !finish {
			return cli.UsageError(cmd, "--force goes with --finish")
		}
		turn := pki.Rotate
		if finish {
			turn = func(dir string, now time.Time) (*pki.Authority,
				error) {
				return pki.FinishRotation(dir, force, now)
			}
		}
		turned, err := turn(*dir, a.Now())
		if err != nil {
			return err
		}
		switch {
		case o.JSON():
			return show.JSON(a.Out, authorityOf(turned, *dir))
		case finish:
			return a.Say("the certificate authority in %s believes its newest key alone; copy the folder to "+
				"the other control hosts", *dir)
		}
		return a.Say("the certificate authority in %s has a new key; copy the folder to the other control "+
			"hosts, and say drover ca rotate --finish in 30 days", *dir)
	}
	return cmd
}

// issued is what programs are told of a certificate.
type issued struct {
	Name    string    `json:"name"`
	Role    pki.Role  `json:"role"`
	Cert    string    `json:"cert"`
	Key     string    `json:"key"`
	CA      string    `json:"ca"`
	Expires time.Time `json:"expires"`
}

func newCAIssueCmd(a *cli.App) *cobra.Command {
	var role, out string
	cmd := &cobra.Command{
		Use:   "issue NAME",
		Short: "Make an operator's certificate",
		Long: `Make an operator's certificate, for a year: three files, for DROVER_CERT,
DROVER_KEY and DROVER_CA. A viewer may look; an operator may also work with
volumes and snapshots; an admin may do everything, also vouch that a node
writes no more (--fenced).`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir, o := dirFlag(a, cmd), cli.OutputFlags(cmd, false)
	cmd.Flags().StringVar(&role, "role", "", "what it may: `ROLE` admin, operator or viewer")
	cmd.Flags().StringVar(&out, "out", ".", "`DIR` for the files, which must not be there")
	cli.CompleteFlag(cmd, "role", string(pki.Admin), string(pki.Worker), string(pki.Viewer))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if role == "" {
			return cli.UsageError(cmd, "ca issue needs --role (have: %s, %s, %s)", pki.Admin, pki.Worker, pki.Viewer)
		}
		r, err := pki.ParseRole(role)
		if err != nil {
			return err
		}
		made, err := issue(a, *dir, out, pki.Identity{Kind: pki.Operator, Role: r, Name: args[0]})
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, made)
		}
		if err := a.Say("made the certificate of operator %s (%s), good until %s", made.Name, made.Role,
			made.Expires.Format(time.RFC3339)); err != nil {
			return err
		}
		return a.Say("export DROVER_CERT=%s DROVER_KEY=%s DROVER_CA=%s", made.Cert, made.Key, made.CA)
	}
	return cmd
}

func issue(a *cli.App, dir, out string, id pki.Identity) (made issued, err error) {
	ca, err := pki.Load(dir)
	if err != nil {
		return made, err
	}
	pair, err := ca.Issue(id, a.Now())
	if err != nil {
		return made, err
	}
	if out, err = filepath.Abs(out); err != nil {
		return made, err
	}
	base := filepath.Join(out, id.Name)
	files := pki.Files{Cert: base + ".pem", Key: base + "-key.pem", CA: base + "-ca.pem"}
	for _, path := range []string{files.Cert, files.Key, files.CA} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return made, dataset.Errorf(dataset.ErrExists, "%s is there: say another --out, or remove it", path)
		}
	}
	if err := pair.Save(files); err != nil {
		return made, fmt.Errorf("keep the certificate: %w", err)
	}
	return issued{id.Name, id.Role, files.Cert, files.Key, files.CA, pair.Chain[0].NotAfter}, nil
}

func newCARevokeCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Make an operator's certificates worth nothing",
		Long: `Make every certificate worth nothing that was made for operators of that name so
far: at once on the control replica that is asked, within seconds on the others.
One that is made more than ten minutes later is good: by so much may the clock
of who made one be ahead. A node's certificate goes with drover node rm.`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		if err := c.RevokeOperator(cmd.Context(), args[0]); err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, map[string]string{"operator": args[0]})
		}
		return a.Say("the certificates of operator %s are worth nothing any more", args[0])
	}
	return cmd
}
