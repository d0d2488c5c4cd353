package pools

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newPoolInspectCmd(a *cli.App) *cobra.Command {
	return cli.Inspect(a, "inspect POOL [POOL...]", "Show pools and their capabilities in detail", cli.PoolWords,
		cli.Inspected[api.Pool]{
			Get: func(ctx context.Context, c cli.Remote, name string) (api.Pool, error) {
				pools, err := c.Pools(ctx)
				if err != nil {
					return api.Pool{}, err
				}
				return findPool(pools, name)
			},
			Form: func(_ context.Context, _ cli.Remote, p api.Pool) *cli.Form { return poolForm(p) },
		})
}

// findPool finds a pool by its name, NODE/NAME, or a unique prefix of its UUID.
func findPool(pools []api.Pool, ref string) (api.Pool, error) {
	fullName := func(p api.Pool) string { return p.NodeName + "/" + p.Name }
	id := func(p api.Pool) uuid.UUID { return p.ID }
	if strings.Contains(ref, "/") {
		return cli.Find(pools, "pool", ref, fullName, id)
	}
	var named []string
	for _, p := range pools {
		if p.Name == ref {
			named = append(named, fullName(p))
		}
	}
	if len(named) > 1 {
		return api.Pool{}, dataset.Errorf(dataset.ErrAmbiguous,
			"several nodes have a pool %s (available: %s; use drover pool inspect NODE/NAME)", ref,
			dataset.FormatChoices(named))
	}
	return cli.Find(pools, "pool", ref, func(p api.Pool) string { return p.Name }, id)
}

func poolForm(p api.Pool) *cli.Form {
	f := &cli.Form{}
	f.Add("Pool", p.Name)
	if p.ID != uuid.Nil { // a pool that could not be created has no ID
		f.Add("ID", p.ID.String())
	}
	f.Add("Node", p.NodeName)
	f.Add("Backend", p.Backend)
	f.Add("Path", p.Path)
	f.Add("Devices", p.Devices...)
	f.Add("Reach", string(p.Reach))
	if p.Default {
		f.Add("Default", "yes: Drover created it because no pool was configured")
	}
	f.Add("Note", p.Note)
	f.Add("Missing", p.MissingFeatures...)
	f.Add("State", stateLine(p))
	if st := p.Status; st != nil {
		f.Add("Reason", st.Reason)
		if st.Online {
			f.Add("Size", st.Size.Human()+", "+freeLine(*st)+" free")
			f.Add("Volumes", provisionedLine(*st))
		}
		if st.Leftovers > 0 {
			f.Add("Pending", fmt.Sprintf("%d to be removed", st.Leftovers))
		}
		if st.UnknownObjects > 0 {
			f.Add("Unknown", fmt.Sprintf("%d quarantined (drover doctor)", st.UnknownObjects))
		}
	}
	if present, absent := abilities(p.Capabilities); len(present) > 0 { // empty if they are not known yet
		f.Add("Can", present...)
		f.Add("Cannot", absent...)
	}
	f.Add("Filesystems", p.Capabilities.Filesystems...)
	return f
}

// Ability describes a capability of pools.
type Ability struct{ Name, what string } // Name is its key in JSON; the field what is its description for people

// Abilities returns all capabilities in the order in which they are shown.
func Abilities() []Ability {
	return []Ability{
		{"enforces_size", "enforce the size of a volume"},
		{"counts_written", "count snapshots towards the size of a volume"},
		{"instant_snapshot", "snapshot and clone without copying"},
		{"constant_snapshot", "take snapshots in constant time, however fragmented the volume is"},
		{"clone_independent", "delete a snapshot without its clones"},
		{"online_grow", "grow a volume while it is in use"},
		{"offline_grow", "grow a volume only while it is not in use"},
		{"shrink", "shrink a volume"},
		{"own_filesystem", "give each volume a separate filesystem, which can be frozen"},
		{"filesystems", "create filesystems in volumes"},
		{"knows_used", "know the used space of a volume without walking its files"},
		{"own_device", "give each volume a separate block device"},
		{"limits", "throttle a volume"},
		{"encryption", "encrypt a volume"},
		{"delta", "send the difference between two snapshots"},
		{"many_hosts", "mount a volume on several hosts at once"},
	}
}

// AbilityInWords describes a capability of pools; for an unknown one it returns the name.
func AbilityInWords(name string) string {
	for _, a := range Abilities() {
		if a.Name == name {
			return a.what
		}
	}
	return name
}

// speed returns which speed limits a pool can enforce for its volumes.
func speed(c dataset.Capabilities) string {
	limit := AbilityInWords("limits")
	switch {
	case c.Limits == dataset.LimitsContainer:
		return limit + " (v1: per container, from about a second after its start)"
	case c.OwnDevice && c.Limits == "":
		return limit + " (its node cannot: run drover doctor there)"
	}
	return limit
}

// abilities returns the capabilities that a pool has and those that it lacks, in words.
func abilities(c dataset.Capabilities) (present, absent []string) {
	grow := AbilityInWords("online_grow")
	online, offline := grow, ""
	if except := c.OfflineGrow; c.OnlineGrow && len(except) > 0 {
		others := slices.DeleteFunc(slices.Clone(c.Filesystems),
			func(fs string) bool { return slices.Contains(except, fs) })
		online, offline = grow+": "+strings.Join(others, ", "), grow+": "+strings.Join(except, ", ")
	}
	for _, e := range []struct {
		present bool
		what    string
	}{
		{c.EnforcesSize, AbilityInWords("enforces_size")},
		{c.InstantSnapshot, AbilityInWords("instant_snapshot")},
		{c.ConstantSnapshot, AbilityInWords("constant_snapshot")},
		{c.CloneIndependent, AbilityInWords("clone_independent")},
		{c.OnlineGrow, online},
		{c.Shrink, AbilityInWords("shrink")},
		{c.OwnFilesystem, AbilityInWords("own_filesystem")},
		{c.Limits != "", speed(c)},
		{c.Encryption, AbilityInWords("encryption")},
		{c.Delta, AbilityInWords("delta")},
		{c.ManyHosts, AbilityInWords("many_hosts")},
	} {
		if e.present {
			present = append(present, e.what)
		} else {
			absent = append(absent, e.what)
		}
	}
	if c.CountsWritten {
		absent = append(absent, "exclude snapshots from the size of a volume")
	}
	if offline != "" {
		absent = append(absent, offline)
	}
	return present, absent
}
