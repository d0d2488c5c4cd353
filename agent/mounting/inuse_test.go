package mounting_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// TestI11RefusalNamesEngineAndCommand: the refusal of a volume in use names the engine that holds it, and the command
// with which that engine shows its containers. If the engine is not known it names none.
func TestI11RefusalNamesEngineAndCommand(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	dockers := strings.Repeat("0123abcd", 8)
	const (
		docker = "docker ps -a --filter volume=db --filter volume=db@bronze"
		podman = "podman ps -a --filter volume=db"
		ends   = "podman volume unmount db ends a podman volume mount"

		stop      = " on node host-a (stop its containers first"
		ofPodman  = "podman (2f73349cfc46)" + stop + "; " + podman + " shows them; " + ends + ")"
		ofDocker  = stop + "; " + docker + " shows them)"
		ofNobody  = stop + ")"
		ofSeveral = "podman (2f73349cfc46), job-1, one" + stop + "; " + docker + " and " + podman + " show them; " + ends + ")"
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
		{map[string]plugin.Tool{"": ""}, "(no ID)" + ofNobody},
		{map[string]plugin.Tool{"job-1": ""}, "job-1" + ofNobody},
		{map[string]plugin.Tool{"one": plugin.Docker}, "one" + ofDocker},
		{map[string]plugin.Tool{dockers: ""}, "0123abcd0123" + ofDocker},
		{map[string]plugin.Tool{mounting.PodmanID: plugin.Podman}, ofPodman},
		{map[string]plugin.Tool{mounting.PodmanID: ""}, ofPodman},
		{map[string]plugin.Tool{"one": plugin.Docker, mounting.PodmanID: plugin.Podman, "job-1": ""}, ofSeveral},
	} {
		for id, tool := range c.uses {
			if _, err := r.Mount(plugin.WithTool(t.Context(), tool), "db", id); err != nil {
				t.Fatal(err)
			}
		}
		end := agenttest.StartContainer(t, r.MountPath(d.ID))
		r.Restart() // the tool is recorded
		err := r.Remove(t.Context(), "db")
		end()
		want := "cannot remove volume db: it is mounted by " + c.want
		if !errors.Is(err, dataset.ErrInUse) || err.Error() != want {
			t.Errorf("%v:\n got %v\nwant %s", c.uses, err, want)
		}
		for _, m := range r.Engines.MountsOf(r.Uses.Get(d.ID)) {
			if want := (mounting.Use{Tool: c.uses[m.ID]}).ToolOf(m.ID); m.Engine != string(want) {
				t.Errorf("use %q is by %q, want %q", m.ID, m.Engine, want)
			}
		}
		for id := range c.uses {
			if err := r.Unmount(t.Context(), "db", id); err != nil {
				t.Fatal(err)
			}
		}
	}
}
