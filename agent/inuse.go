package agent

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// inUse is the refusal that names who holds a dataset, and how to find those containers.
func (a *Agent) inUse(d dataset.Dataset, what string, r mountRecord) error {
	who := "mounted"
	by := map[string]plugin.Tool{}
	for id, use := range r.IDs {
		by[id] = use.tool(id)
	}
	if len(by) > 0 {
		who = mountedBy(by)
	}
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: it is %s on node %s (%s)",
		what, d.Volume, who, a.NodeName, howToStop("stop its containers first", by, d.Volume, a.used(d)))
}

// tool returns the engine that made a use. Where the caller was not seen, as in what older versions
// recorded, the ID tells.
func (c idCount) tool(id string) plugin.Tool { return cmp.Or(c.Tool, toolByID(id)) }

// toolByID returns the engine that sends such mount IDs: Podman always the same one, Docker 64 random
// hexadecimal digits.
func toolByID(id string) plugin.Tool {
	switch {
	case id == mounting.PodmanID:
		return plugin.Podman
	case len(id) == len(mounting.PodmanID) && strings.Trim(id, "0123456789abcdef") == "":
		return plugin.Docker
	}
	return ""
}

// mountedBy says who has mounted a volume: mount IDs, each with its tool. Podman's ID is the same for
// all, so it is named.
func mountedBy(by map[string]plugin.Tool) string {
	var who []string
	for _, id := range slices.Sorted(maps.Keys(by)) {
		text := shortID(id)
		if by[id] == plugin.Podman {
			text = "podman (" + text + ")"
		}
		who = append(who, text)
	}
	return "mounted by " + strings.Join(who, ", ")
}

// shortID shows a mount ID to people.
func shortID(id string) string {
	if id == "" {
		return "(no ID)"
	}
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// howToStop says how the uses of a volume are ended: what to do, and the commands that show the
// containers. The engines' commands know no mount ID. Docker's know a volume only by the spelling that
// a container was made with, Podman's only by its bare name. Of a tool that is not known nothing can
// be said but what to do.
func howToStop(what string, by map[string]plugin.Tool, volume string, spellings []string) string {
	tools := slices.Collect(maps.Values(by))
	var show []string
	if slices.Contains(tools, plugin.Docker) {
		show = append(show, "docker ps -a --filter volume="+strings.Join(spellings, " --filter volume="))
	}
	if slices.Contains(tools, plugin.Podman) {
		show = append(show, "podman ps -a --filter volume="+volume)
	}
	switch len(show) {
	case 1:
		what += "; " + show[0] + " shows them"
	case 2:
		what += "; " + strings.Join(show, " and ") + " show them"
	}
	if slices.Contains(tools, plugin.Podman) {
		what += "; podman volume unmount " + volume + " ends a podman volume mount"
	}
	return what
}
