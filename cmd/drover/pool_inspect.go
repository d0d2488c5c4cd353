package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newPoolInspectCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect POOL",
		Short:             "Show all about a pool, and what its backend can do there",
		Args:              args(1),
		ValidArgsFunction: complete(a, poolWords),
	}
	o := outputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		pools, err := c.Pools(cmd.Context())
		if err != nil {
			return err
		}
		p, err := pick(pools, "pool", args[0],
			func(p api.Pool) string { return p.Name }, func(p api.Pool) uuid.UUID { return p.ID })
		if err != nil {
			return err
		}
		return one(a, o, p, poolForm)
	}
	return cmd
}

func poolForm(p api.Pool) *show.Form {
	f := &show.Form{}
	f.Add("Pool", p.Name)
	if p.ID != uuid.Nil { // one that could not be made
		f.Add("ID", p.ID.String())
	}
	f.Add("Node", p.NodeName)
	f.Add("Backend", p.Backend)
	f.Add("Path", p.Path)
	f.Add("Devices", p.Devices...)
	f.Add("Reach", string(p.Reach))
	if p.Default {
		f.Add("Default", "yes: made by Drover, as no pool was configured")
	}
	f.Add("Note", p.Note)
	f.Add("Missing", p.Missing...)
	f.Add("State", poolState(p))
	if st := p.Status; st != nil {
		f.Add("Reason", st.Reason)
		if st.Online {
			f.Add("Size", st.Size.Human()+", "+freeLine(*st)+" free")
		}
		if st.Pending > 0 {
			f.Add("Pending", fmt.Sprintf("%d to be reaped", st.Pending))
		}
		if st.Unknown > 0 {
			f.Add("Unknown", fmt.Sprintf("%d that the store does not know (drover doctor)", st.Unknown))
		}
	}
	if can, cannot := abilities(p.Capabilities); len(can) > 0 { // otherwise nobody has asked it yet
		f.Add("Can", can...)
		f.Add("Cannot", cannot...)
	}
	f.Add("Filesystems", p.Capabilities.Filesystems...)
	return f
}

// speed says which limits of speed a pool's volumes are held to.
func speed(c dataset.Capabilities) string {
	const limit = "limit a volume's speed"
	switch {
	case c.Limits == dataset.LimitsContainer:
		return limit + " (v1: per container, from about a second after its start)"
	case c.OwnDevice && c.Limits == "":
		return limit + " (its node cannot: drover doctor there)"
	}
	return limit
}

// abilities says in words what a pool's capabilities are.
func abilities(c dataset.Capabilities) (can, cannot []string) {
	const grow = "make a volume larger while it is in use"
	online, offline := grow, ""
	if except := c.OfflineGrow; c.OnlineGrow && len(except) > 0 {
		others := slices.DeleteFunc(slices.Clone(c.Filesystems), func(fs string) bool { return slices.Contains(except, fs) })
		online, offline = grow+": "+strings.Join(others, ", "), grow+": "+strings.Join(except, ", ")
	}
	for _, e := range []struct {
		can  bool
		what string
	}{
		{c.EnforcesSize, "enforce a volume's size"},
		{c.InstantSnapshot, "snapshot and clone without copying"},
		{c.ConstantSnapshot, "snapshot in the same time however fragmented"},
		{c.CloneIndependent, "keep a clone when its snapshot is deleted"},
		{c.OnlineGrow, online},
		{c.Shrink, "make a volume smaller"},
		{c.OwnFilesystem, "give each volume a filesystem of its own"},
		{c.Limits != "", speed(c)},
		{c.Encryption, "encrypt a volume"},
		{c.Delta, "send what changed between two snapshots"},
		{c.ManyHosts, "have a volume mounted on several hosts at once"},
	} {
		if e.can {
			can = append(can, e.what)
		} else {
			cannot = append(cannot, e.what)
		}
	}
	if c.CountsWritten {
		cannot = append(cannot, "leave out of a volume's size what only a snapshot has")
	}
	if offline != "" {
		cannot = append(cannot, offline)
	}
	return can, cannot
}
