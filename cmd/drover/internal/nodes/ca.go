package nodes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// DefaultAuthority is the value of App.Authority in the program. Tests set another folder.
const DefaultAuthority = "/etc/drover/ca"

// CertificateCommand makes drover ca with its subcommands.
func CertificateCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "ca",
		Short: "Manage the certificate authority of a cluster",
	},
		newCAInitCmd(a), newCARotateCmd(a), newCAIssueCmd(a), newCARevokeCmd(a), newCALsCmd(a),
	)
}

// dirFlag gives a command the folder of the authority.
func dirFlag(a *cli.App, cmd *cobra.Command) *string {
	return cmd.Flags().String("dir", a.Authority, "`DIR` of the certificate authority on this host")
}

// Authority is the JSON output for an authority.
type Authority struct {
	Cluster     string `json:"cluster"`
	Fingerprint string `json:"fingerprint"` // of the newest root
	Dir         string `json:"dir"`
	Roots       int    `json:"roots"` // the number of trusted roots
}

func authorityOf(a *pki.Authority, dir string) Authority {
	return Authority{a.Cluster().String(), a.Fingerprint().String(), dir, len(a.Roots())}
}

func newCAInitCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create the certificate authority of a new cluster",
		Long: `Create the certificate authority of a new cluster in a folder of this host. Copy
the folder to each control host. Keep it secret: anyone who has it can act as
any member of the cluster. Keep one copy outside of all hosts.

The command fails if the folder is not empty. With --keep, an existing authority
is checked and kept, so that the command can run at each start, for example by
docker compose up.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	dir := cmd.Flags().String("dir", a.Authority, "`DIR` to create on this host")
	keep := cmd.Flags().Bool("keep", false, "succeed if there is an authority already, and keep it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *dir == "" { // such as an unset variable in a script
			return cli.UsageError(cmd, "--dir is empty: name the folder to create, or omit --dir to use %s",
				a.Authority)
		}
		authority, err := pki.Create(*dir, a.Now())
		kept := *keep && errors.Is(err, dataset.ErrExists)
		if kept {
			authority, err = pki.Load(*dir)
		}
		switch {
		case err != nil:
			return err
		case o.JSON():
			return cli.JSON(a.Out, authorityOf(authority, *dir))
		case kept:
			return a.PrintLine("kept the certificate authority of cluster %s in %s", authority.Cluster(), *dir)
		}
		return a.PrintLine("created the certificate authority of cluster %s in %s; copy the folder to each control "+
			"host, and let nobody else read it", authority.Cluster(), *dir)
	}
	return cmd
}

func newCARotateCmd(a *cli.App) *cobra.Command {
	var finish, force bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the key of the certificate authority",
		Long: `Replace the key of the certificate authority in its folder on this host. Then
copy the folder to the other control hosts, in any order: no node loses access
meanwhile. Nodes get new certificates automatically within minutes. Issue new
ones for operators with drover ca issue. Certificates of the old key are trusted
until --finish, which is refused for 30 days.

--finish --force ends the trust at once, for a key that may have been stolen.
Nodes that do not have a new certificate by then must join again.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir, o := dirFlag(a, cmd), cli.OutputFlags(cmd, false)
	cmd.Flags().BoolVar(&finish, "finish", false, "stop trusting the previous key")
	cmd.Flags().BoolVar(&force, "force", false, "with --finish: do not wait until all nodes can have new certificates")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if force && !finish {
			return cli.UsageError(cmd, "--force requires --finish")
		}
		rotate := pki.Rotate
		if finish {
			rotate = func(dir string, now time.Time) (*pki.Authority, error) {
				return pki.FinishRotation(dir, force, now)
			}
		}
		turned, err := rotate(*dir, a.Now())
		if err != nil {
			return err
		}
		switch {
		case o.JSON():
			return cli.JSON(a.Out, authorityOf(turned, *dir))
		case finish:
			return a.PrintLine("the certificate authority in %s trusts only its newest key; copy the folder to the "+
				"other control hosts", *dir)
		}
		return a.PrintLine(
			"the certificate authority in %s has a new key; copy the folder to the other control hosts, "+
				"and run drover ca rotate --finish in 30 days", *dir)
	}
	return cmd
}

// issued is the JSON output for a certificate.
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
		Short: "Issue an operator's certificate",
		Long: `Issue an operator's certificate, valid for one year. It writes three files, for
DROVER_CERT, DROVER_KEY and DROVER_CA. A viewer can read; an operator can also
work with volumes and snapshots; an admin can do everything, including
confirming that a node is fenced (--fenced).`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir, o := dirFlag(a, cmd), cli.OutputFlags(cmd, false)
	cmd.Flags().StringVar(&role, "role", "", "`ROLE` of the operator: admin, operator or viewer")
	cmd.Flags().StringVar(&out, "out", ".", "`DIR` for the files, created if it does not exist")
	cli.CompleteFlag(cmd, "role", string(pki.Admin), string(pki.Worker), string(pki.Viewer))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if role == "" {
			return cli.UsageError(cmd, "missing flag: --role (available: %s, %s, "+
				"%s)", pki.Admin, pki.Worker, pki.Viewer)
		}
		r, err := pki.ParseRole(role)
		if err != nil {
			return err
		}
		certificate, err := issue(a, *dir, out, pki.Identity{Kind: pki.Operator, Role: r, Name: args[0]})
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, certificate)
		}
		if err := a.PrintLine("issued the certificate of operator %s (%s), valid until %s", certificate.Name,
			certificate.Role, cli.When(a.Now(), certificate.Expires)); err != nil {
			return err
		}
		return a.PrintLine("export DROVER_CERT=%s DROVER_KEY=%s DROVER_CA=%s", certificate.Cert, certificate.Key,
			certificate.CA)
	}
	return cmd
}

func issue(a *cli.App, dir, out string, id pki.Identity) (certificate issued, err error) {
	ca, err := pki.Load(dir)
	if err != nil {
		return certificate, err
	}
	pair, err := ca.Issue(id, a.Now())
	if err != nil {
		return certificate, err
	}
	if out, err = filepath.Abs(out); err != nil {
		return certificate, err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return certificate, fmt.Errorf("--out: %w", err)
	}
	base := filepath.Join(out, id.Name)
	files := pki.Files{Cert: base + ".pem", Key: base + "-key.pem", CA: base + "-ca.pem"}
	for _, path := range []string{files.Cert, files.Key, files.CA} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return certificate, dataset.Errorf(dataset.ErrExists,
				"%s exists: choose another --out, or remove the file", path)
		}
	}
	if err := pair.Save(files); err != nil {
		return certificate, fmt.Errorf("write the certificate: %w", err)
	}
	if err := pki.NoteOperator(dir, id.Name, pair.Chain[0].NotAfter); err != nil {
		return certificate, fmt.Errorf("the certificate was issued, but its name was not noted: %w", err)
	}
	return issued{id.Name, id.Role, files.Cert, files.Key, files.CA, pair.Chain[0].NotAfter}, nil
}

func newCARevokeCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Revoke an operator's certificates",
		Long: `Revoke all certificates that were issued so far for an operator. The control
replica that gets the request refuses them at once, the others within seconds.
Certificates that are issued more than ten minutes later are valid: the clock of
the issuing host may be ahead by that much. To revoke a node's certificate, use
drover node rm.

If the folder of the authority on this host has a list of the operators to whom
certificates were issued, the name must be in it. --force revokes another name.

Control records the revocation, so drover control must run: a single host with
drover serve has no certificates.`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir, o := dirFlag(a, cmd), cli.OutputFlags(cmd, false)
	force := cmd.Flags().Bool("force", false, "also if no certificate was issued to that name here")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		if !*force {
			if err := checkIssued(*dir, args[0]); err != nil {
				return err
			}
		}
		if err := c.RevokeOperator(cmd.Context(), args[0]); err != nil {
			return err
		}
		return a.PrintResult(o, map[string]string{"operator": args[0]},
			"revoked the certificates of operator %s", args[0])
	})
	return cmd
}

// checkIssued fails with dataset.ErrNotFound if the authority of this host has a list of operators, and a name is not
// in it. The list is missing on a host without the authority, and before the first certificate is issued.
func checkIssued(dir, name string) error {
	issued, err := pki.Operators(dir)
	names := slices.Sorted(maps.Keys(issued))
	if err != nil || len(names) == 0 || slices.Contains(names, name) {
		return err
	}
	return dataset.Errorf(dataset.ErrNotFound,
		"revoke operator %s: no certificate was issued to that name from %s (issued to: %s)%s; --force revokes the "+
			"name nevertheless, for certificates of another host", dataset.Clip(name), dir,
		dataset.FormatChoices(names),
		dataset.Suggestion(name, names))
}

// Member is a row of drover ca ls: an operator to whom the authority on this host has issued certificates, or an
// operator or a node whose certificates were revoked.
type Member struct {
	Name    string    `json:"name"` // of the operator, or the UUID of the node
	Kind    string    `json:"kind"` // operator or node
	Issued  bool      `json:"issued"`
	Expires time.Time `json:"expires,omitzero"` // the newest certificate that was issued on this host
	Revoked time.Time `json:"revoked,omitzero"` // all certificates that were issued before are revoked
	// Unconfirmed reports that control did not answer, so it is not known whether certificates were revoked.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
}

func newCALsCmd(a *cli.App) *cobra.Command {
	var dir *string
	cmd := cli.New(a, cli.List[Member]{
		Short: "List operators, and revoked certificates",
		Long: `List the operators to whom certificates were issued from the folder of the
authority on this host, and the operators and nodes of the cluster whose
certificates were revoked. All certificates that an operator got before the
revocation are refused; those issued more than ten minutes later are valid.

ISSUED HERE is no if the folder on this host has no record of a certificate: it
was issued on another control host, or the folder cannot be read here. EXPIRES
is the end of the newest certificate that was issued here. A node
is listed by its UUID, and only if it was removed (drover node rm). A revocation
is kept for as long as the revoked certificates could be valid.

Control knows the revocations. While it is unreachable, the list has only the
operators of the folder, and REVOKED is unknown. A single host with drover serve
has no certificates.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]Member, error) {
			until, err := pki.Operators(*dir)
			if err != nil {
				return nil, err
			}
			trust, err := c.Trust(ctx)
			list := membersOf(until, trust.Revoked)
			if _, statErr := os.Stat(*dir); errors.Is(err, dataset.ErrUnavailable) && statErr == nil {
				for i := range list {
					list[i].Unconfirmed = true
				}
				_, _ = fmt.Fprintf(a.ErrOut, "drover: control is unreachable: this list has only the operators in %s, "+
					"and their revocations are unknown (start drover control)\n", *dir)
				return list, nil
			}
			return list, err
		}),
		ID:      func(m Member) string { return m.Name },
		Columns: func([]Member) []cli.Column[Member] { return memberColumns(a) },
		Compare: cli.By(func(m Member) string { return m.Name }),
	})
	dir = dirFlag(a, cmd)
	return cmd
}

func memberColumns(a *cli.App) []cli.Column[Member] {
	revoked := cli.Time(a, "REVOKED", func(m Member) time.Time { return m.Revoked })
	ago := revoked.Cell
	revoked.Cell = func(m Member) string {
		if m.Unconfirmed {
			return "unknown"
		}
		return ago(m)
	}
	return []cli.Column[Member]{
		{Header: "NAME", Cell: func(m Member) string { return m.Name }},
		{Header: "KIND", Cell: func(m Member) string { return m.Kind }},
		{Header: "ISSUED HERE", Cell: func(m Member) string { return cli.YesNo(m.Issued) }},
		cli.Time(a, "EXPIRES", func(m Member) time.Time { return m.Expires }),
		revoked,
	}
}

// membersOf returns a row for each operator and for each revocation. An operator has one row. until has when the newest
// certificates of the operators expire.
func membersOf(until map[string]time.Time, revoked []api.Revoked) []Member {
	list := make([]Member, 0, len(until)+len(revoked))
	row := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(until)) {
		row[name] = len(list)
		list = append(list, Member{Name: name, Kind: "operator", Issued: true, Expires: until[name]})
	}
	for _, r := range revoked {
		if r.Node != uuid.Nil {
			list = append(list, Member{Name: r.Node.String(), Kind: "node", Revoked: r.At})
			continue
		}
		if i, issued := row[r.Operator]; issued {
			list[i].Revoked = r.At
			continue
		}
		list = append(list, Member{Name: r.Operator, Kind: "operator", Revoked: r.At})
	}
	return list
}
