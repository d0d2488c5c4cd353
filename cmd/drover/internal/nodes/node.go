// Package nodes has the commands for the parts of a cluster: drover node, drover ca, drover guard and drover store.
// drover node drain requests the move of each volume of the node (drain.go); control moves only the replicas. Some
// commands of drover store and drover ca work on files of this host, without a server. The package keeps no state.
package nodes

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// Command makes drover node with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "node",
		SuggestFor: []string{"host"},
		Short:      "Manage nodes",
	},
		newNodeLsCmd(a), newNodeInspectCmd(a), newNodeCordonCmd(a), newNodeLabelCmd(a),
		newNodeDrainCmd(a),
		newNodeFenceCmd(a), newNodeTokenCmd(a), newNodeRmCmd(a),
	)
}

// findNode connects to the server and finds a node by name or UUID. It also returns all nodes.
func findNode(ctx context.Context, a *cli.App, ref string) (c cli.Remote, n api.Node, all []api.Node, err error) {
	if c, err = a.Connect(); err != nil {
		return c, n, nil, err
	}
	if all, err = c.NodeList(ctx, ""); err != nil {
		return c, n, nil, err
	}
	n, err = cli.Find(all, "node", ref, func(n api.Node) string { return n.Name },
		func(n api.Node) uuid.UUID { return n.ID })
	return c, n, all, err
}

func newNodeLsCmd(a *cli.App) *cobra.Command {
	var placement string
	cmd := cli.New(a, cli.List[api.Node]{
		Short: "List the nodes",
		Long: `List the nodes. The expression of --placement is about facts, as in a profile's
placement: 'architecture == "x86_64" and load_10 < 20', 'labels.rack == "r1"',
'pool.free > "100GiB"'. An expression about pools matches a node if it matches
one of its pools. Nodes whose facts are not known yet do not match. CPUS, LOAD
and MEMORY FREE are those of the time MEASURED. A draining node is drained once
it has no volume and no replica.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.Node, error) {
			return c.NodeList(ctx, placement)
		}),
		ID:      func(n api.Node) string { return n.ID.String() },
		Columns: func(nodes []api.Node) []cli.Column[api.Node] { return nodeColumns(a, nodes) },
		Compare: cli.By(func(n api.Node) string { return n.Name }),
		Labels:  cli.OwnLabels(func(n api.Node) map[string]string { return n.Labels }),
	})
	cmd.Flags().StringVar(&placement, "placement", "", "list only the nodes that match the `EXPRESSION`")
	return cmd
}

func nodeColumns(a *cli.App, nodes []api.Node) []cli.Column[api.Node] {
	fact := func(header string, cell func(dataset.Facts) string, compare func(x, y api.Node) int) cli.Column[api.Node] {
		return cli.Column[api.Node]{Header: header, Compare: compare, Cell: func(n api.Node) string {
			if n.Facts == nil {
				return ""
			}
			return cell(*n.Facts)
		}}
	}
	return []cli.Column[api.Node]{
		{Header: "NAME", Cell: func(n api.Node) string { return n.Name }},
		cli.UUID("NODE", nodes, func(n api.Node) uuid.UUID { return n.ID }),
		{Header: "VERSION", Cell: func(n api.Node) string { return n.Version }},
		{Header: "POOLS", Cell: func(n api.Node) string { return strconv.Itoa(len(n.Pools)) },
			Compare: cli.By(func(n api.Node) int { return len(n.Pools) })},
		{Header: "STATE", Cell: func(n api.Node) string { return nodeState(n, a.Now()) }},
		fact("CPUS", func(f dataset.Facts) string { return strconv.Itoa(f.CPUs) },
			cli.By(func(n api.Node) int { return n.Facts.CPUs })),
		fact("LOAD", func(f dataset.Facts) string { return loadLine(f.Load10) },
			cli.By(func(n api.Node) float64 { return n.Facts.Load10 })),
		fact("MEMORY FREE", func(f dataset.Facts) string { return f.MemoryFree.Human() },
			cli.By(func(n api.Node) dataset.Size { return n.Facts.MemoryFree })),
		cli.Time(a, "MEASURED", func(n api.Node) time.Time { return factsOf(n).Taken }),
		{Header: "LABELS", Cell: func(n api.Node) string { return strings.Join(cli.LabelLines(n.Labels), ",") }},
		{Header: "GUARDED", Wide: true, Cell: func(n api.Node) string { return cli.YesNo(n.GuardRunning) }},
		{Header: "FENCED", Wide: true, Cell: func(n api.Node) string { return cli.YesNo(n.Fenced) }},
		{Header: "UUID", Wide: true, Cell: func(n api.Node) string { return n.ID.String() }},
	}
}

// factsOf returns the facts of a node, or none if they are not known yet.
func factsOf(n api.Node) dataset.Facts {
	if n.Facts == nil {
		return dataset.Facts{}
	}
	return *n.Facts
}

func loadLine(load float64) string { return strconv.FormatFloat(load, 'f', 2, 64) }

// nodeState returns the state of a node for a table: its reachability, and whether it is cordoned, draining or drained.
func nodeState(n api.Node, now time.Time) string {
	state := reachability(n, now)
	switch {
	case n.Drained:
		state += ", drained"
	case n.Draining:
		state += ", draining"
	case n.Cordoned:
		state += ", cordoned"
	}
	return state
}

// reachability returns whether a node reports to control, or since when it has not reported.
func reachability(n api.Node, now time.Time) string {
	switch {
	case n.Live:
		return "live"
	case n.StatusSince.IsZero():
		return "unreachable"
	}
	return "unreachable for " + strings.TrimSuffix(cli.Ago(now, n.StatusSince), " ago")
}

func newNodeInspectCmd(a *cli.App) *cobra.Command {
	return cli.Inspect(a, "inspect NODE [NODE...]", "Show nodes in detail", cli.NodeWords, cli.Inspected[api.Node]{
		Get: func(ctx context.Context, _ cli.Remote, name string) (api.Node, error) {
			_, n, _, err := findNode(ctx, a, name)
			return n, err
		},
		Form: func(ctx context.Context, c cli.Remote, n api.Node) *cli.Form {
			return nodeForm(n, poolLines(ctx, c, n), a.Now())
		},
	})
}

// poolLines describes the pools of a node. If they cannot be read, the line says why.
func poolLines(ctx context.Context, c cli.Remote, n api.Node) []string {
	list, err := c.Pools(ctx)
	if err != nil {
		return []string{"not known: " + err.Error()}
	}
	var lines []string
	for _, p := range list {
		if p.Node == n.ID {
			state := pools.State(p)
			if state == pools.Held {
				state += ": " + p.Status.Reason
			}
			lines = append(lines, fmt.Sprintf("%s (%s at %s, %s)", p.Name, p.Backend, p.Path, state))
		}
	}
	return lines
}

func nodeForm(n api.Node, pools []string, now time.Time) *cli.Form {
	f := &cli.Form{}
	f.Add("Node", n.Name)
	f.Add("ID", n.ID.String())
	f.Add("Version", n.Version)
	f.Add("State", reachability(n, now))
	if n.Fenced {
		f.Add("Fenced", "confirmed as fenced by an operator")
	}
	f.Add("Guarded", cli.YesNo(n.GuardRunning))
	f.Add("Cordoned", cordonText(n))
	f.Add("Labels", cli.LabelLines(n.Labels)...)
	f.Add("Pools", pools...)
	if n.Facts == nil {
		f.Add("Facts", "not reported yet")
		return f
	}
	factLines(f, *n.Facts, now)
	return f
}

// cordonText says whether a node is cordoned, and whether its data must leave it.
func cordonText(n api.Node) string {
	switch {
	case n.Drained:
		return "yes, and drained"
	case n.Draining:
		return "yes, and draining"
	}
	return cli.YesNo(n.Cordoned)
}

func factLines(f *cli.Form, facts dataset.Facts, now time.Time) {
	machine := facts.Architecture
	if facts.Virtual {
		machine += ", virtual"
	}
	f.Add("Facts", cli.When(now, facts.Taken)+", last change of 10 % or more")
	f.Add("Machine", fmt.Sprintf("%s, %d CPUs", machine, facts.CPUs))
	f.Add("Load", fmt.Sprintf("%s, %s, %s (1, 10 and 15 minutes)", loadLine(facts.Load1), loadLine(facts.Load10),
		loadLine(facts.Load15)))
	f.Add("Memory", fmt.Sprintf("%s, %s free", facts.MemoryTotal.Human(), facts.MemoryFree.Human()))
	f.Add("System", strings.TrimSpace(facts.OS+" "+facts.OSVersion)+", Linux "+facts.Kernel)
	f.Add("Engine", facts.Engine)
	f.Add("Backends", strings.Join(facts.Backends, ", "))
	var free []string
	for _, p := range facts.Pools {
		free = append(free, p.Name+" "+p.Free.Human())
	}
	f.Add("Free", free...)
}

func newNodeLabelCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "label NODE KEY=VALUE [KEY=VALUE...]",
		Short: "Set and remove labels of a node",
		Long: `Set and remove labels of a node, which placement expressions can use, such as
labels.rack == "r1". KEY=VALUE sets a label, or replaces its value. KEY- removes
it. The node need not be reachable.

A label that this command sets replaces the label with the same key in
drover.yaml, also after a restart of the node. KEY- removes the new label, and
the label in drover.yaml applies again. A label that is only in drover.yaml can
only be removed there. Existing volumes stay where they are.`,
		Example:           "  drover node label host-a rack=r1 spare-",
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := cli.ParseLabelChange(cmd, args[1:])
		if err != nil {
			return err
		}
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		set, err := c.LabelNode(cmd.Context(), n.ID, change)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, set)
		}
		if labels := strings.Join(cli.LabelLines(set.Labels), ", "); labels != "" {
			return a.PrintLine("node %s has the labels %s", set.Name, labels)
		}
		return a.PrintLine("node %s has no labels", set.Name)
	}
	return cmd
}

func newNodeCordonCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "cordon NODE",
		SuggestFor: []string{"uncordon"},
		Short:      "Place nothing new on a node, or end that",
		Long: `Place nothing new on a node: no new volumes, no replicas, and no volumes that
move from other nodes. A volume that a container of the node requests is made on
another node, and cannot be mounted here. What the node has stays and works.

The node stays cordoned, also across restarts, until --off ends it. --off also
ends a drain. The node need not be reachable. Without --off, a drain ends, too,
but the node stays cordoned. The replicas that are left on the node stay.`,
		Example: `  drover node cordon host-a
  drover node cordon host-a --off`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "allow new volumes on the node again; this also ends a drain")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return setCordon(cmd, a, o, args[0], !*off) }
	return cmd
}

// setCordon cordons a node, or ends its cordon, and prints what changed.
func setCordon(cmd *cobra.Command, a *cli.App, o *cli.Output, ref string, cordoned bool) error {
	c, n, _, err := findNode(cmd.Context(), a, ref)
	if err != nil {
		return err
	}
	set, err := c.Cordon(cmd.Context(), n.ID, api.Cordoned{Cordoned: cordoned})
	if err != nil {
		return err
	}
	switch {
	case o.JSON():
		return cli.JSON(a.Out, set)
	case !cordoned && n.Cordoned:
		return a.PrintLine("node %s is no longer cordoned", set.Name)
	case !cordoned:
		return a.PrintLine("node %s is not cordoned: nothing to do", set.Name)
	case n.Draining:
		return a.PrintLine("node %s is cordoned, and no longer draining", set.Name)
	case n.Cordoned:
		return a.PrintLine("node %s is already cordoned", set.Name)
	}
	return a.PrintLine("node %s is cordoned (drover node cordon --off %s ends that)", set.Name, set.Name)
}

func newNodeFenceCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence NODE",
		Short: "Confirm that a node is fenced",
		Long: `Confirm that an unreachable node is fenced: it is off, or cut off for good, and
writes no more. The command does nothing to the node, so switch it off first.
Its volumes with failover auto then continue from their copies when they are
mounted elsewhere. The node no longer counts towards a mass loss, which halts
failover. The command is refused while the node is alive. The confirmation ends
when the node returns. The name of the node must be typed to confirm it, unless
--yes is given.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	yes := cli.AddFlag(cmd)
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		if err := yes.Ask(a, cli.Question{
			Action: "fence node " + n.Name,
			Effects: []string{
				"its volumes may then be opened on other nodes: if the node still writes, data is lost",
				"you confirm that it is off, or cut off for good",
			},
			Name: n.Name,
		}); err != nil {
			return err
		}
		set, err := c.Fence(cmd.Context(), n.ID, api.Fenced{Confirmed: true})
		if err != nil {
			return err
		}
		return a.PrintResult(o, set, "node %s is confirmed as fenced until it returns", set.Name)
	}
	return cmd
}

func newNodeRmCmd(a *cli.App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NODE",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove a node from the cluster for good",
		Long: `Remove a node from the cluster for good. Its certificate is revoked, so it can
return only with a new token. The command is refused while the node is the home
of volumes: move them first (drover node drain). It is also refused while the
node has data that no other node has: a superseded copy, or the last complete
copy of a volume whose home is unreachable or cannot open it.

If the node is alive, has the only replica of a volume, or with --force, the
command shows the effect, and the name of the node must be typed to confirm it,
unless --yes is given.

Use --force for a host that an attacker may control: it revokes the certificate
although volumes have their home there. The node stays in the store until the
volumes have another home (drover volume move --force --fenced). Then repeat the
command to remove it. Containers on the host are not stopped. Volumes that it
uses but whose home is another node (access: many) count as in use until drover
node fence confirms that it is off. Its copies are removed from the store: the
command lists those that no other node has. Their data stays in its pools.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&force, "force", false,
		"also if volumes have their home there, or if it has data that no other node has")
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		n, err := removeNode(cmd.Context(), a, c, o, yes, args[0], force)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, n)
		}
		if o.DryRun {
			return a.PrintLine("dry run: would remove node %s: %s", n.Name, strings.Join(removalEffects(n), "; "))
		}
		for _, item := range n.Forgotten {
			if err := a.PrintLine("removed from the store: %s", item); err != nil {
				return err
			}
		}
		if len(n.Unprotected) > 0 {
			if err := a.PrintLine("no replica is left of %s until another node has made one (drover status)",
				strings.Join(n.Unprotected, ", ")); err != nil {
				return err
			}
		}
		return a.PrintLine("removed node %s: certificate revoked; the host can join again with another --root and "+
			"--node-name and a new token (drover node token --name NAME)", n.Name)
	})
	return cmd
}

// removeNode removes a node. It first asks for a confirmation if the node is alive, is the home of volumes, or has data
// or a replica that no other node has. The question follows a preview, so nobody is asked about a removal that is
// refused. After a preview it removes the node by its UUID, because another node may have got the name since.
func removeNode(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag, ref string,
	force bool) (api.RemovedNode, error) {
	if !yes.Given() || o.DryRun {
		n, err := c.RemoveNode(ctx, ref, api.NodeRemoval{Force: force, DryRun: true})
		if err != nil || o.DryRun {
			return n, err
		}
		if n.Live || len(n.Homes) > 0 || len(n.Forgotten) > 0 || len(n.Unprotected) > 0 {
			q := cli.Question{Action: "remove node " + n.Name, Effects: removalEffects(n), Name: n.Name}
			if err := yes.Ask(a, q); err != nil {
				return n, err
			}
		}
		ref = n.ID.String()
	}
	return c.RemoveNode(ctx, ref, api.NodeRemoval{Force: force})
}

// removalEffects says what the removal of a node does.
func removalEffects(n api.RemovedNode) []string {
	effects := []string{"its certificate is revoked for good, and only a new token lets it join again"}
	if n.Live {
		effects = append(effects, "the node is alive: its containers continue to run")
	}
	if len(n.Homes) > 0 {
		effects = append(effects, "volumes whose home it is cannot be used until they have another home: "+
			strings.Join(n.Homes, ", "))
	}
	if len(n.Unprotected) > 0 {
		effects = append(effects, "it has the only replica of these volumes, so that only their homes have their "+
			"data until another node has one: "+strings.Join(n.Unprotected, ", "))
	}
	for _, what := range n.Forgotten {
		effects = append(effects, "removed from the store, and no other node has it: "+what)
	}
	return effects
}

func newNodeTokenCmd(a *cli.App) *cobra.Command {
	var in api.NewToken
	var out string
	cmd := &cobra.Command{
		Use:        "token",
		SuggestFor: []string{"add", "join"},
		Short:      "Create a token with which one host joins the cluster",
		Long: `Create a token with which one host joins the cluster, once. Put it in a file on
that host and run drover agent --join @FILE. The token is printed only now and
stored nowhere. A token with the name of an existing node lets that node join
again, for example after its certificate expired.

With --out the token is not printed, but written to that file, which only its
owner can read. An existing file is replaced.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	cmd.Flags().StringVar(&in.Name, "name", "", "`NAME` that the node must have")
	cmd.Flags().StringVar(&in.TTL, "ttl", "1h", "how long the token is valid: `TIME` such as 30m or 2d, at most 7d")
	cmd.Flags().StringVar(&out, "out", "", "write the token to `FILE` instead of printing it")
	cli.CompleteFlag(cmd, "name")
	cli.CompleteFlag(cmd, "ttl")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		token, err := c.MakeToken(cmd.Context(), in)
		if err != nil {
			return err
		}
		if out != "" {
			if err := durable.ReplaceShared(out, []byte(token.Token+"\n")); err != nil {
				return fmt.Errorf("write the token: %w", err)
			}
			token.Token = ""
		}
		switch {
		case o.JSON():
			return cli.JSON(a.Out, token)
		case out != "":
			return a.PrintLine("token %s, valid for one host until %s, is in %s", token.ID,
				cli.When(a.Now(), token.Expires), out)
		}
		if _, err := fmt.Fprintf(a.ErrOut, "token %s, valid for one host until %s:\n", token.ID,
			cli.When(a.Now(), token.Expires)); err != nil {
			return err
		}
		return a.PrintLine("%s", token.Token)
	})
	return cmd
}
