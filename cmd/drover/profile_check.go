package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
	"github.com/droverhq/drover/profiles"
)

func newProfileCheckCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a file of profiles, before the server reads it",
		Long: `Check a file of profiles, before the server reads it, and show what it comes to.
Every mistake is told, with file, line and column. No server is asked: whether a
pool can keep what a profile promises is seen when a volume is created.`,
		Args: args(1),
	}
	o := outputFlags(cmd, false)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		src, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		set, err := profiles.Parse(args[0], src)
		if err != nil {
			return a.mistakes(args[0], strictyaml.All(err))
		}
		if o.json() {
			return show.List(a.out, set.All())
		}
		if err := a.say("%s is good; the default is %s", args[0], set.Default()); err != nil {
			return err
		}
		for _, p := range set.All() {
			if p.Quiesce == dataset.QuiesceFreeze {
				if err := a.say("profile %s freezes: should drover be killed in the moment of a snapshot, writers wait until it starts again (or fsfreeze -u)", p.Name); err != nil {
					return err
				}
			}
			if p.Failover.Auto {
				if err := a.say("profile %s fails over: each node that is to have its volumes or replicas needs the guard (systemctl enable --now drover-guard)", p.Name); err != nil {
					return err
				}
			}
		}
		return profileTable(set.All()).Write(a.out)
	}
	return cmd
}

// mistakes tells each on a line of its own, the only one as the error itself.
func (a *app) mistakes(file string, all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	for _, m := range all {
		complain(a.errOut, m)
	}
	return dataset.Errorf(dataset.KindOf(all[0]), "%s has %d mistakes", file, len(all))
}
