// Package status has the commands that say what happens: drover status, drover doctor, drover operation and drover
// support-bundle. Status fetches the lists of the server and passes them to [Assess], which is a pure function. A
// finding that follows from the lists belongs in assess.go. A finding that needs an examination of a host belongs in
// the component that knows the problem (see package agent/doctor). Every part of a support bundle passes through Redact
// or RedactYAML. The package keeps no state.
package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// WatchPause is the time between two reports of --watch.
const WatchPause = 5 * time.Second

// Command makes drover status.
func Command(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "status",
		SuggestFor: []string{"health", "info", "ps"},
		Short:      "Show what needs attention on the host and in the cluster",
		Long: `Show what needs attention: nodes that are unreachable or have a wrong clock,
pools that are offline, held or nearly full, volumes with a problem, degraded or
stale replicas, superseded copies, late snapshots, operations that failed or
take long, servers of the store that are down, and what doctor finds on the
nodes. On a host with more than 1000 volumes it shows what the last examination
in the background found, which does not compare the pools with the records. If
everything is well, it prints one line, and the nodes that are cordoned. With
--verbose, it also lists what works. The exit code is 1 if something needs
attention.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.ReportFlags(cmd)
	var watch, verbose bool
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print the report again every 5 seconds until interrupted")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list what works, too")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		if watch {
			return follow(cmd.Context(), a, o, c, verbose)
		}
		r := assess(cmd.Context(), a, c, verbose)
		if err := write(a, o, r); err != nil {
			return err
		}
		return cli.Verdict(r.Findings)
	})
	return cmd
}

// follow prints a report every WatchPause until the user interrupts it.
func follow(ctx context.Context, a *cli.App, o *cli.Output, c cli.Remote, verbose bool) error {
	ctx, stop := a.Signals(ctx)
	defer stop()
	for {
		r := assess(ctx, a, c, verbose)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case o.JSON():
			if err := cli.Line(a.Out, r); err != nil {
				return err
			}
		case o.YAML():
			if err := cli.Document(a.Out, r); err != nil {
				return err
			}
		default:
			if cli.IsTerminal(a.Out) {
				if _, err := fmt.Fprint(a.Out, "\x1b[H\x1b[2J"); err != nil { // home, and clear the screen
					return err
				}
			}
			if err := a.PrintLine("%s", a.Now().Format(time.DateTime)); err != nil {
				return err
			}
			if err := write(a, o, r); err != nil {
				return err
			}
		}
		if err := a.Sleep(ctx, WatchPause); err != nil {
			return nil // interrupted
		}
	}
}

// manyVolumes is the number of volumes above which an examination of a host takes longer than a user wants to wait:
// doctor then reads thousands of records from its pools.
const manyVolumes = 1000

// recentExamination is how old the last examination in the background may be to be used for such a host.
const recentExamination = time.Minute

// ExamineAfter is how long status waits for the lists before it has the host examined. The lists can make the
// examination unnecessary (see knowsHost), so status does not examine the host at once. If control does not answer, a
// list fails only after its time limit, and an examination that began after that would take as long again. So status
// does not wait for the end of the lists either.
const ExamineAfter = 2 * time.Second

// assess fetches what status reports, and turns it into a report. A list that it cannot fetch becomes a finding, so
// that the report does not look healthy if the server does not answer. If verbose is set, the report also has what
// works.
func assess(ctx context.Context, a *cli.App, c cli.Remote, verbose bool) Report {
	var host examination
	var early sync.WaitGroup
	waiting, listed := context.WithCancel(ctx)
	early.Go(func() {
		if a.Sleep(waiting, ExamineAfter) == nil {
			host.make(ctx, c)
		}
	})
	known, failed := fetchLists(ctx, a, c)
	listed()
	early.Wait()
	if len(failed) > 0 && known.Health != nil && len(known.Health.Store.Findings) == 0 {
		// The store may have failed after its state was read. Its new state names the cause of the failed lists.
		if health, err := c.ClusterHealth(ctx); err == nil {
			known.Health = &health
		}
	}
	known.VolumesUnknown = known.VolumesUnknown || a.Outdated.Load()
	if !host.done && !knowsHost(known, a.Now()) {
		host.make(ctx, c)
	}
	if host.err == nil {
		known.Doctor = host.findings
	} else if !errors.Is(host.err, dataset.ErrUnsupported) { // a control replica has no host to examine
		failed = append(failed, host.err)
	}
	r := Assess(known, a.Now())
	failed = slices.DeleteFunc(failed, a.IsExpiry)
	own := a.CertificateFindings()
	r.Findings = append(r.Findings, own...)
	for _, err := range causes(known.Health, known.Doctor, failed) { // NewReport leaves out repeated ones
		r.Findings = append(r.Findings, unread(a, err))
	}
	if verbose {
		r.Findings = append(r.Findings, Fine(known, r.Findings, a.Now())...)
	}
	if len(failed) == 0 && len(own) == 0 && !verbose {
		return r
	}
	return NewReport(known, r.Findings)
}

// examination is an examination of the server's host.
type examination struct {
	done     bool
	findings []api.Finding
	err      error
}

func (e *examination) make(ctx context.Context, c cli.Remote) {
	e.done = true
	e.findings, e.err = c.Doctor(ctx)
}

// fetchLists fetches the lists of the server, all at once. failed has an error for each list that it cannot fetch.
func fetchLists(ctx context.Context, a *cli.App, c cli.Remote) (known Cluster, failed []error) {
	known = Cluster{VolumesUnknown: true} // until they are read
	var mu sync.Mutex                     // for known and failed
	var all sync.WaitGroup
	a.Outdated.Store(false)
	fetch := func(get func() (keep func(), err error)) {
		all.Go(func() {
			keep, err := get()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
			} else {
				keep()
			}
		})
	}
	fetch(func() (func(), error) {
		v, err := c.Version(ctx)
		return func() { known.Local = v.Node }, err
	})
	fetch(func() (func(), error) {
		nodes, err := c.NodeList(ctx, "")
		return func() { known.Nodes = nodes }, err
	})
	fetch(func() (func(), error) {
		pools, err := c.Pools(ctx)
		return func() { known.Pools = pools }, err
	})
	fetch(func() (func(), error) {
		volumes, err := cli.FetchAll(ctx, func(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
			p.Health = true
			return c.VolumeSummaries(ctx, p)
		})
		return func() { known.Volumes, known.VolumesUnknown = volumes, false }, err
	})
	fetch(func() (func(), error) {
		health, err := c.ClusterHealth(ctx)
		return func() { known.Health = &health }, err
	})
	fetch(func() (func(), error) {
		ops, trash, err := readOperations(ctx, c)
		return func() { known.Operations, known.Trash = ops, trash }, err
	})
	all.Wait()
	return known, failed
}

// readOperations returns the operations. If a purge has failed, it then reads which datasets are in the trash.
func readOperations(ctx context.Context, c cli.Remote) (ops []dataset.Operation, trash map[uuid.UUID]bool, err error) {
	if ops, err = cli.FetchAll(ctx, c.Operations); err != nil {
		return nil, nil, err
	}
	hasFailed := func(op dataset.Operation) bool { return op.Kind == dataset.OpPurge && op.State == dataset.OpFailed }
	if !slices.ContainsFunc(ops, hasFailed) {
		return ops, nil, nil
	}
	list, err := cli.FetchAll(ctx, c.Trash)
	if err != nil {
		return nil, nil, err
	}
	trash = map[uuid.UUID]bool{}
	for _, v := range list {
		trash[v.ID] = true
	}
	return ops, trash, nil
}

// causes returns the errors of lists that need a finding. All lists for which the server or the store is unavailable
// have one cause. It needs no finding if the state of the store names it, or if doctor on this host found that control
// does not respond. An error about another subject, such as a record that cannot be read, does not name the cause.
func causes(health *api.ClusterHealth, doctor []api.Finding, failed []error) (out []error) {
	named := health != nil && slices.ContainsFunc(health.Store.Findings, condition.StoreUnavailable.Is) ||
		slices.ContainsFunc(doctor, condition.ControlUnreachable.Is)
	var unavailable error
	for _, err := range failed {
		switch {
		case !errors.Is(err, dataset.ErrUnavailable):
			out = append(out, err)
		case unavailable == nil || err.Error() < unavailable.Error(): // the same one each time
			unavailable = err
		}
	}
	if unavailable != nil && !named {
		out = append(out, unavailable)
	}
	return out
}

// unread is the finding about a list that cannot be read. If the server does not answer, doctor would fail, too.
func unread(a *cli.App, err error) api.Finding {
	fix := "run drover doctor"
	if errors.Is(err, dataset.ErrUnavailable) {
		fix = "see systemctl status 'drover*'"
	}
	return condition.ServerUnreadable.Finding("server", fix+" on the host of the server at "+a.Address(), err)
}

// knowsHost reports whether the last examination in the background is used for the server's host instead of a new one:
// if the host has many volumes and the examination is recent.
func knowsHost(c Cluster, now time.Time) bool {
	here := 0
	for i := range c.Volumes {
		if c.Volumes[i].Node == c.Local {
			here++
		}
	}
	if c.VolumesUnknown || c.Health == nil || here <= manyVolumes {
		return false
	}
	return slices.ContainsFunc(c.Health.Nodes, func(n api.NodeHealth) bool {
		return n.Name == c.Local && n.Live && n.Found != nil && now.Sub(n.Found.Examined) <= recentExamination
	})
}

func write(a *cli.App, o *cli.Output, r Report) error {
	switch {
	case o.JSON():
		return cli.JSON(a.Out, r)
	case o.YAML():
		return cli.YAML(a.Out, r)
	}
	if r.Healthy {
		err := a.PrintLine("healthy: %s, %s, %s",
			cli.Count(r.Nodes, "node"), cli.Count(r.Pools, "pool"), cli.Count(r.Volumes, "volume"))
		if err != nil || len(r.Findings) == 0 {
			return err
		}
	}
	return cli.FindingsTable(a, r.Findings).Write(a.Out)
}
