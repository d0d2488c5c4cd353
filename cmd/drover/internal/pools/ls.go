package pools

import (
	"cmp"
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

// The states of a pool in the output. State returns one of them. Package nodes also compares with Held.
const (
	poolOnline  = "online"
	poolOffline = "offline"
	Held        = "held"
	poolUnknown = "unknown"
	// poolUnreachable means that the node of the pool is unreachable. Its last report may be outdated.
	poolUnreachable = "unreachable"
)

func newPoolLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[api.Pool]{
		Short: "List the pools",
		Long: `List the pools. OVERCOMMIT is the present ratio of the sizes of all volumes to
the size of the pool, and its limit if the pool has one: 0.3, at most 1.5.
drover pool set changes the limit.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.Pool, error) {
			return c.Pools(ctx)
		}),
		ID:      func(p api.Pool) string { return p.ID.String() },
		Columns: func([]api.Pool) []cli.Column[api.Pool] { return poolColumns(a) },
		Compare: func(x, y api.Pool) int {
			return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.NodeName, y.NodeName))
		},
		Labels: nodeLabels,
	})
}

func nodeLabels(ctx context.Context, c cli.Remote) (func(api.Pool) map[string]string, error) {
	nodes, err := c.NodeList(ctx, "")
	labels := map[uuid.UUID]map[string]string{}
	for _, n := range nodes {
		labels[n.ID] = n.Labels
	}
	return func(p api.Pool) map[string]string { return labels[p.Node] }, err
}

func poolColumns(a *cli.App) []cli.Column[api.Pool] {
	colors := a.Palette()
	// measure is a column of a size or ratio that only an online pool has.
	measure := func(header string, cell func(dataset.PoolStatus) string,
		value func(dataset.PoolStatus) float64) cli.Column[api.Pool] {
		return cli.Column[api.Pool]{
			Header: header,
			Cell: func(p api.Pool) string {
				if p.Status == nil || !p.Status.Online {
					return ""
				}
				return cell(*p.Status)
			},
			Compare: cli.By(func(p api.Pool) float64 { return value(*p.Status) }),
		}
	}
	ofSize := func(cell func(dataset.PoolStatus) string) func(dataset.PoolStatus) string {
		return func(st dataset.PoolStatus) string {
			if st.Size == 0 {
				return ""
			}
			return cell(st)
		}
	}
	return []cli.Column[api.Pool]{
		{Header: "NAME", Cell: func(p api.Pool) string { return p.Name }},
		{Header: "NODE", Cell: func(p api.Pool) string { return p.NodeName }},
		{Header: "BACKEND", Cell: func(p api.Pool) string { return p.Backend }},
		{Header: "STATE", Cell: stateLine, Paint: func(s string) string { return paintState(colors, s) }},
		measure("SIZE", func(st dataset.PoolStatus) string { return st.Size.Human() },
			func(st dataset.PoolStatus) float64 { return float64(st.Size) }),
		measure("USED", ofSize(func(st dataset.PoolStatus) string { return st.Usage().Used.Human() }),
			func(st dataset.PoolStatus) float64 { return float64(st.Usage().Used) }),
		measure("USE%", ofSize(func(st dataset.PoolStatus) string { return fmt.Sprintf("%d%%", st.Usage().Percent()) }),
			func(st dataset.PoolStatus) float64 { return float64(st.Usage().Percent()) }),
		measure("FREE", func(st dataset.PoolStatus) string { return st.Free.Human() },
			func(st dataset.PoolStatus) float64 { return float64(st.Free) }),
		measure("OVERCOMMIT", ofSize(overcommit), dataset.PoolStatus.OvercommitRatio),
		{Header: "PATH", Cell: func(p api.Pool) string { return p.Path }, Below: func(p api.Pool) string {
			if p.Status == nil || !p.Status.Quarantined {
				return ""
			}
			return p.Status.Reason
		}},
		{Header: "OVERCOMMIT LIMIT", Wide: true, Cell: overcommitLimit},
		{Header: "REACH", Wide: true, Cell: func(p api.Pool) string { return string(p.Reach) }},
		{Header: "DEVICES", Wide: true, Cell: func(p api.Pool) string { return strings.Join(p.Devices, ",") }},
		{Header: "UUID", Wide: true, Cell: func(p api.Pool) string { return p.ID.String() }},
	}
}

// overcommitLimit returns the limit of a pool's overcommit, or "" if it is not known.
func overcommitLimit(p api.Pool) string {
	switch {
	case p.Status == nil || !p.Status.Online:
		return ""
	case p.Status.Overcommit > 0:
		return dataset.FormatRatio(p.Status.Overcommit)
	}
	return "none"
}

// paintState colours the state of a pool, or how full a volume is.
func paintState(colors cli.Palette, s string) string {
	switch {
	case s == poolOnline, s == "":
		return s
	case strings.HasSuffix(s, dataset.NearlyFull.String()):
		return colors.Yellow(s)
	}
	return colors.Red(s)
}

// State returns the state of a pool in one word.
func State(p api.Pool) string {
	switch {
	case p.Unreachable:
		return poolUnreachable
	case p.Status == nil:
		return poolUnknown
	case p.Status.Online:
		return poolOnline
	case p.Status.Quarantined:
		return Held
	}
	return poolOffline
}

// stateLine returns the state of a pool, and how full it is if little space is left.
func stateLine(p api.Pool) string {
	if State(p) == poolOnline && p.Status.Fullness() != dataset.NotFull {
		return poolOnline + ", " + p.Status.Fullness().String()
	}
	return State(p)
}

// provisionedLine returns how large the volumes of a pool may become, compared with its size.
func provisionedLine(st dataset.PoolStatus) string {
	if st.Size <= 0 {
		return ""
	}
	return fmt.Sprintf("%s provisioned (overcommit %s)", st.Provisioned.Human(), overcommit(st))
}

// overcommit returns the present overcommit of a pool, and the limit if there is one, such as "0.3, at most 1.5".
func overcommit(st dataset.PoolStatus) string {
	text := dataset.FormatRatio(st.OvercommitRatio())
	if st.Overcommit > 0 {
		text += ", at most " + dataset.FormatRatio(st.Overcommit)
	}
	return text
}

func freeLine(s dataset.PoolStatus) string {
	if s.Size == 0 {
		return s.Free.Human()
	}
	return fmt.Sprintf("%s (%d%%)", s.Free.Human(), int64(100*float64(s.Free)/float64(s.Size)))
}

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
