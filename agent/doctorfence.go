package agent

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/dataset"
)

// checkFences warns of fence programs that this node would refuse to run: those of control's
// profiles, and those of volumes with a copy here. They are needed when a home is lost, which is too
// late to find out. None is run.
func (a *Agent) checkFences(ctx context.Context, r *diagnosis) {
	if a.config.PeerHTTP == nil { // no other node whose volumes this one could take over
		return
	}
	users := map[string][]string{} // profiles, by the program that they name
	uses := func(p dataset.Profile) {
		f := p.Failover
		if !f.Auto || f.Fence.Kind != dataset.FenceExec || len(f.Fence.Exec) == 0 {
			return
		}
		if program := f.Fence.Exec[0]; !slices.Contains(users[program], p.Name) {
			users[program] = append(users[program], p.Name)
		}
	}
	if all, err := a.Control.Profiles(ctx); err == nil { // doctor says by itself that control is unreachable
		for _, p := range all {
			uses(p)
		}
	}
	for _, id := range a.Cache.CopyIDs() {
		if k, kept := a.Cache.Copy(id); kept && k.Record != nil && k.Kind != dataset.CopyGoing {
			uses(k.Record.Profile)
		}
	}
	for _, program := range slices.Sorted(maps.Keys(users)) {
		if err := a.programs.Check([]string{program}); err != nil {
			slices.Sort(users[program])
			r.Add(findings.Warning, "failover", "",
				"volumes of profiles that name this fence program (%s) do not fail over to this node: %v",
				strings.Join(users[program], ", "), err)
		}
	}
}
