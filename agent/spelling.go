package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// learn records on disk how this engine spells a volume, unless the volume's own record has it.
func (a *Agent) learn(ctx context.Context, d dataset.Dataset, req api.Request) error {
	tool := plugin.ToolOf(ctx)
	if !req.Engine || a.isSpelling(d, req.Volume, tool) {
		return nil
	}
	a.spelling.Lock()
	defer a.spelling.Unlock()
	more, learned := a.spelt(d, req.Volume, tool)
	if len(more) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.DB.Put(ctx, more); err != nil {
		return err
	}
	learned()
	return nil
}

// unlearn forgets how the engine spelled a volume that does not exist any more.
func (a *Agent) unlearn(ctx context.Context, d dataset.Dataset) error {
	a.spelling.Lock()
	defer a.spelling.Unlock()
	if !a.Cache.ForgetSpellings(d) {
		return nil
	}
	return a.DB.Put(context.WithoutCancel(ctx), map[string]any{"spellings/" + d.Volume: nil})
}

// forgetName forgets how the engine spelled a volume that was deleted on another node.
func (a *Agent) forgetName(ctx context.Context, name string) error {
	id, used := a.Cache.DatasetNamed(name)
	if !used {
		return nil
	}
	return a.unlearn(ctx, dataset.Dataset{ID: id, Volume: name})
}

// used returns the spellings that this engine has used for a volume.
func (a *Agent) used(d dataset.Dataset) []string { return a.Cache.SpellingsOf(d, a.NodeID) }

// isSpelling reports whether it is recorded that a tool has used a spelling of a volume.
func (a *Agent) isSpelling(d dataset.Dataset, spelling string, tool plugin.Tool) bool {
	return slices.Contains(a.used(d), spelling) && (tool != plugin.Podman || a.Cache.UsedByPodman(d))
}

// spelt returns the values that record on disk that a tool has used a spelling, and a function that applies them
// to memory after that. Both do nothing if it is recorded already. The caller holds a.spelling until then.
func (a *Agent) spelt(d dataset.Dataset, spelling string, tool plugin.Tool) (values map[string]any, learned func()) {
	if a.isSpelling(d, spelling, tool) {
		return nil, func() {}
	}
	r := records.Spellings{Dataset: d.ID, Used: a.used(d), Podman: tool == plugin.Podman || a.Cache.UsedByPodman(d)}
	if !slices.Contains(r.Used, spelling) {
		r.Used = append(r.Used, spelling)
	}
	return map[string]any{"spellings/" + d.Volume: r}, func() { a.Cache.SetSpellings(d.Volume, r) }
}

// saveSpelling calls save with the values that record on disk that a tool has used a spelling.
func (a *Agent) saveSpelling(d dataset.Dataset, spelling string, tool plugin.Tool,
	save func(more map[string]any) error) error {
	if a.isSpelling(d, spelling, tool) {
		return save(nil)
	}
	a.spelling.Lock()
	defer a.spelling.Unlock()
	more, learn := a.spelt(d, spelling, tool)
	if err := save(more); err != nil {
		return err
	}
	learn()
	return nil
}

// removableBy refuses to have an engine remove a volume that only others use on this node.
//
// Podman lists every volume of this node after "podman volume reload", and "podman volume prune"
// removes all of them that no container of Podman uses: also those of a Docker engine's stopped
// containers, and those that only drover or other nodes have used. So it removes only what it has
// made or mounted itself.
func (a *Agent) removableBy(tool plugin.Tool, d dataset.Dataset, spelling string) error {
	used := a.used(d)
	switch {
	case tool == plugin.Podman && !a.Cache.UsedByPodman(d):
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s was never used by podman on node %s, and others may need it (drover volume rm %s deletes it)",
			d.Volume, a.NodeName, d.Volume)
	case len(used) > 0 && !slices.Contains(used, spelling):
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s is known to this engine as %s, which a container may need: docker volume rm %s",
			d.Volume, strings.Join(used, " and "), strings.Join(used, " "))
	}
	return nil
}

// unspell removes a spelling of a volume of which the engine uses another one.
func (a *Agent) unspell(
	ctx context.Context, tool plugin.Tool, d dataset.Dataset, spelling string,
) (another bool, err error) {
	a.spelling.Lock()
	defer a.spelling.Unlock()
	used := a.used(d)
	rest := slices.DeleteFunc(used, func(s string) bool { return s == spelling })
	if len(rest) == 0 {
		return false, nil
	}
	r := records.Spellings{Dataset: d.ID, Used: rest, Podman: tool != plugin.Podman && a.Cache.UsedByPodman(d)}
	if err := a.DB.Put(ctx, map[string]any{"spellings/" + d.Volume: r}); err != nil {
		return true, err
	}
	a.Cache.SetSpellings(d.Volume, r)
	return true, nil
}
