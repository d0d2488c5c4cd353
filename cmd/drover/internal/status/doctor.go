package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// DoctorCommand makes drover doctor.
func DoctorCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "doctor",
		SuggestFor: []string{"check", "fsck", "verify"},
		Short:      "Check the server's host and list quarantined data",
		Long: `Check the server's host: what does not work, why, and how to fix it. The report
also lists quarantined data: objects in the pools that the store does not know.
Quarantined data is removed only by --gc with its full UUID, after a
confirmation: type the UUID again, or use --yes. With --cluster, the
report is about every node, the control replicas and the servers of the store.
With --verbose, it includes what works. The exit code is 1 if a finding is a
warning or an error, as that of drover status.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	var gc string
	var cluster, verbose bool
	cmd.Flags().StringVar(&gc, "gc", "", "destroy the quarantined object with this `UUID`")
	cli.CompleteFlag(cmd, "gc")
	yes := cli.AddFlag(cmd)
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "with --gc: show what would be destroyed, and change nothing")
	cmd.Flags().BoolVar(&cluster, "cluster", false, "check every node, the control replicas and the store")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list what works, too")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		if cluster && cmd.Flags().Changed("gc") {
			return cli.UsageError(cmd, "--gc removes an object of the server's host and cannot be used with --cluster")
		}
		if cmd.Flags().Changed("gc") {
			return collectGarbage(cmd.Context(), a, c, o, yes, gc)
		}
		if o.DryRun {
			return cli.UsageError(cmd, "--dry-run requires --gc")
		}
		examine := ofHost
		if cluster {
			examine = ofCluster
		}
		list, err := examine(cmd.Context(), a, c)
		own := a.CertificateFindings()
		if err != nil && !a.IsExpiry(err) {
			return err
		}
		if len(own) > 0 {
			list = append(own, list...)
		}
		if err := print(a, o, list, verbose); err != nil {
			return err
		}
		return cli.Verdict(list)
	})
	return cmd
}

// ofHost returns the findings of the server's host.
func ofHost(ctx context.Context, _ *cli.App, c cli.Remote) ([]api.Finding, error) {
	list, err := c.Doctor(ctx)
	return distinct(list), err
}

// ofCluster returns the findings of every node, of the control replicas and of the store. The host of the server is
// examined now; other nodes examine themselves every ten seconds.
func ofCluster(ctx context.Context, a *cli.App, c cli.Remote) ([]api.Finding, error) {
	health, err := c.ClusterHealth(ctx)
	if err != nil {
		return nil, err
	}
	version, err := c.Version(ctx)
	if err != nil {
		return nil, err
	}
	var ownFindings []api.Finding
	if version.Node != "" {
		if ownFindings, err = c.Doctor(ctx); err != nil && !errors.Is(err, dataset.ErrUnsupported) {
			return nil, err
		}
	}
	return doctorOfCluster(health, version.Node, ownFindings, a.Now()), nil
}

// Cluster returns the findings about a cluster, sorted. local is the name of the node that answers, and ownFindings are
// its findings. If a control replica answers, local is empty. Cluster is a pure function. Only drover doctor --cluster
// calls it.
func doctorOfCluster(h api.ClusterHealth, local string, ownFindings []api.Finding, now time.Time) []api.Finding {
	list := append([]api.Finding{}, h.Findings...)
	list = append(list, h.Store.Findings...)
	if h.Store.Leader != "" && len(h.Store.Findings) == 0 {
		text := "leader is " + h.Store.Leader
		if n := len(h.Store.Servers); n > 0 {
			text += fmt.Sprintf("; %d servers are healthy", n)
		}
		list = append(list, api.Finding{Level: cli.OK, Subject: "store", Text: text})
	}
	for _, r := range h.Replicas {
		text := fmt.Sprintf("at %s, version %s, alive since %s", r.Address, r.Version, cli.When(now, r.Since))
		if r.Housekeeper {
			text += "; does the background work"
		}
		list = append(list, api.Finding{Level: cli.OK, Subject: "control replica " + r.Name, Text: text})
	}
	var ofNodes []cli.OfNode
	for _, n := range h.Nodes {
		ofNodes = append(ofNodes, ofNode(n, local, ownFindings, now)...)
	}
	list = append(list, cli.Merge(ofNodes, "")...)
	cli.Sort(list)
	return distinct(list)
}

// ofNode returns the findings about one node.
func ofNode(n api.NodeHealth, local string, ownFindings []api.Finding, now time.Time) []cli.OfNode {
	var out []cli.OfNode
	add := func(f api.Finding) { out = append(out, cli.OfNode{Node: n.Name, Finding: f}) }
	if n.Name == local && local != "" {
		for _, f := range ownFindings {
			add(f)
		}
		return out
	}
	agent := api.Finding{Subject: "agent"}
	switch {
	case !n.Live:
		agent.Level, agent.Text, agent.Fix = cli.Error, "does not answer", "drover node inspect "+n.Name
		if !n.Reported.IsZero() {
			agent.Text += ": last report " + cli.Ago(now, n.Reported)
		}
	case n.Found == nil:
		agent.Level = cli.Warning
		agent.Text = "has not reported what it found: it started a moment ago"
		agent.Fix = "run drover doctor on that host"
	case n.Found.Examined.IsZero():
		agent.Level, agent.Text = cli.Info, "has not examined its host yet"
	default:
		agent.Level, agent.Text = cli.OK, "examined its host "+cli.Ago(now, n.Found.Examined)
	}
	add(agent)
	if n.Found == nil || !n.Live { // its earlier findings may be outdated
		return out
	}
	for _, f := range cli.Reported(*n.Found) {
		add(f)
	}
	return out
}

// distinct returns the findings without repeated ones, in their order.
func distinct(list []api.Finding) []api.Finding {
	seen := map[api.Finding]bool{}
	out := make([]api.Finding, 0, len(list))
	for _, f := range list {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	return out
}

// print prints what needs attention and, if verbose or as JSON, everything.
func print(a *cli.App, o *cli.Output, list []api.Finding, verbose bool) error {
	shown := list
	if !verbose && !o.JSON() {
		shown = nil
		for _, f := range list {
			if cli.NeedsAttention(f) {
				shown = append(shown, f)
			}
		}
		if len(shown) == 0 {
			return a.PrintLine("healthy (drover doctor -v lists what was checked)")
		}
	}
	return cli.PrintList(a, o, shown, func(f api.Finding) string { return f.Subject },
		func(list []api.Finding) *cli.Table { return cli.FindingsTable(a, list) })
}

// collectGarbage destroys one quarantined object. gc must be its full UUID, because a prefix could match another
// object.
func collectGarbage(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag,
	gc string) error {
	id, err := uuid.Parse(gc)
	if err != nil || len(gc) != len(uuid.Nil.String()) {
		return dataset.Errorf(dataset.ErrInvalid,
			"--gc %q: expected the full UUID of a quarantined object (drover doctor lists them)", gc)
	}
	if !yes.Given() || o.DryRun {
		found, err := c.Collect(ctx, id, true)
		switch {
		case err != nil:
			return err
		case o.DryRun && o.JSON():
			return cli.JSON(a.Out, found)
		case o.DryRun:
			return a.PrintLine("dry run: would destroy %s: %s", id, described(found))
		}
		err = yes.Ask(a, cli.Question{
			Action:  "destroy " + id.String(),
			Effects: []string{"destroys " + described(found) + " for good; the store does not know this data"},
			Name:    id.String(),
		})
		if err != nil {
			return err
		}
	}
	destroyed, err := c.Collect(ctx, id, false)
	switch {
	case err != nil:
		return err
	case o.JSON():
		return cli.JSON(a.Out, destroyed)
	}
	return a.PrintLine("destroyed %s", id)
}

// described says what a quarantined object is.
func described(c api.Collected) string {
	what := "an object without a record"
	if c.Volume != "" {
		what = "the data of a volume named " + c.Volume
	}
	what += ", with " + cli.Count(c.Snapshots, "snapshot") + ", in pool " + c.Pool
	if c.Path != "" {
		what += " at " + c.Path
	}
	return what
}
