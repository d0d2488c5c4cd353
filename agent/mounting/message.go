package mounting

import (
	"maps"
	"slices"
	"strings"

	"github.com/droverhq/drover/plugin"
)

// MountedByText lists the mount IDs of a volume for error messages. by has the engine of each ID. Podman's ID
// is the same for all of its containers, so the text says that it is Podman's.
func MountedByText(by map[string]plugin.Tool) string {
	var who []string
	for _, id := range slices.Sorted(maps.Keys(by)) {
		text := ShortID(id)
		switch {
		case id == UnknownUse:
			text = "a container or process that is not recorded, because the agent's database was lost"
		case by[id] == plugin.Podman:
			text = "podman (" + text + ")"
		}
		who = append(who, text)
	}
	return "mounted by " + strings.Join(who, ", ")
}

// ShortID returns the beginning of a mount ID, for error messages.
func ShortID(id string) string {
	if id == "" {
		return "(no ID)"
	}
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// HowToStop returns a hint on how to end the uses of a volume, for error messages. The hint is the text what, followed
// by the commands that list the containers. No command of an engine accepts a mount ID. Docker finds a volume only by
// the spelling with which a container was made, and Podman only by the name of the volume. If the engine is not known,
// the hint has no command.
func HowToStop(what string, by map[string]plugin.Tool, volume string, spellings []string) string {
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
	if _, lost := by[UnknownUse]; lost {
		what += "; drover volume inspect " + volume + " there lists the processes"
	}
	if slices.Contains(tools, plugin.Podman) {
		what += "; podman volume unmount " + volume + " ends a podman volume mount"
	}
	return what
}
