package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// TestI11NamesTheTool: the refusal of a volume in use names the engine that holds it, and the command
// with which that one shows its containers. Of an engine that is not known it names none.
func TestI11NamesTheTool(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	dockers := strings.Repeat("0123abcd", 8)
	const (
		docker = "docker ps -a --filter volume=db --filter volume=db@bronze"
		podman = "podman ps -a --filter volume=db"
		ends   = "podman volume unmount db ends a podman volume mount"
	)
	if _, err := r.Mount(t.Context(), "db@bronze", "first"); err != nil {
		t.Fatal(err)
	}
	if err := r.Unmount(t.Context(), "db@bronze", "first"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uses map[string]plugin.Tool
		want string
	}{
		{map[string]plugin.Tool{"": ""}, "(no ID) on node host-a (stop its containers first)"},
		{map[string]plugin.Tool{"job-1": ""}, "job-1 on node host-a (stop its containers first)"},
		{map[string]plugin.Tool{"one": plugin.Docker}, "one on node host-a (stop its containers first; " + docker + " shows them)"},
		{map[string]plugin.Tool{dockers: ""}, "0123abcd0123 on node host-a (stop its containers first; " + docker + " shows them)"},
		{map[string]plugin.Tool{podmanID: plugin.Podman}, "podman (2f73349cfc46) on node host-a (stop its containers first; " + podman + " shows them; " + ends + ")"},
		{map[string]plugin.Tool{podmanID: ""}, "podman (2f73349cfc46) on node host-a (stop its containers first; " + podman + " shows them; " + ends + ")"},
		{
			map[string]plugin.Tool{"one": plugin.Docker, podmanID: plugin.Podman, "job-1": ""},
			"podman (2f73349cfc46), job-1, one on node host-a (stop its containers first; " + docker + " and " + podman + " show them; " + ends + ")",
		},
	} {
		for id, tool := range c.uses {
			if _, err := r.Mount(plugin.WithTool(t.Context(), tool), "db", id); err != nil {
				t.Fatal(err)
			}
		}
		r.restart() // the tool is on record
		err := r.Remove(t.Context(), "db")
		if want := "cannot remove volume db: it is mounted by " + c.want; !errors.Is(err, dataset.ErrInUse) || err.Error() != want {
			t.Errorf("%v:\n got %v\nwant %s", c.uses, err, want)
		}
		for _, m := range r.usesOf(r.record(d.ID)) {
			if want := (idCount{Tool: c.uses[m.ID]}).tool(m.ID); m.Tool != string(want) {
				t.Errorf("use %q is by %q, want %q", m.ID, m.Tool, want)
			}
		}
		for id := range c.uses {
			if err := r.Unmount(t.Context(), "db", id); err != nil {
				t.Fatal(err)
			}
		}
	}
}
