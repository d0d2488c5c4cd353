package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

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
