package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/volumes"
)

// datasets lists the datasets in a host's pool: live, being made, or being deleted.
func (w *world) datasets(h *cluster.Host) (ids []string, err error) {
	for _, folder := range []string{"datasets", "incoming", "deleting"} {
		entries, err := os.ReadDir(h.File(filepath.Join(h.Dir, "disk", "pool", folder)))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			if _, err := uuid.Parse(e.Name()); err == nil {
				ids = append(ids, e.Name())
			}
		}
	}
	return ids, nil
}

// once runs a command in a container that has a volume at /data.
func once(t *testing.T, h *cluster.Host, volume, command string) string {
	t.Helper()
	return h.Docker(t, "run", "--rm", "--volume", volume+":/data", "--volume-driver", "drover", cluster.Image, "sh", "-c", command)
}

// testVolumes: on a host with an engine, volumes work as on a single host and are requested from control. Every other
// host sees them, and may not change them.
func testVolumes(t *testing.T, w *world) {
	h, other := w.Hosts[0], w.Hosts[2]
	volumes.Run(t, volumes.World{
		Engine: h.Engine, Host: h.Host, Name: h.Name, Admin: w.Controls[1].Host,
		Servers: []*host.Host{w.Controls[1].Host, w.Hosts[0].Host, w.Hosts[1].Host, other.Host},
	})
	const name = "seen"
	h.Docker(t, "volume", "create", "--driver", "drover", name+"@gold")
	if v := other.Inspect(t, name); v.Node != h.Name || v.Profile.Name != "gold" || v.Epoch == 0 {
		t.Errorf("%s tells %+v of %s's volume", other.Name, v, h.Name)
	}
	listed(t, w, name)
	// What is requested from control is done at the home. Other nodes may only look.
	if r := other.Exec(t, "snapshot", "create", name); r.Exit != 1 || !strings.Contains(r.Err, "may not request this snapshot of volume "+name) {
		t.Errorf("%s makes snapshots of %s's volume: %s", other.Name, h.Name, r.Err)
	}
	h.Docker(t, "volume", "rm", name+"@gold")
}

// listed fails unless every host's command line shows the volume, and each engine can inspect it.
func listed(t *testing.T, w *world, name string) {
	t.Helper()
	for _, h := range w.Hosts {
		if all := h.Volumes(t); !slices.Contains(all, name) {
			t.Errorf("%s lists %v, without %s", h.Name, all, name)
		}
		a, err := h.Plug(t).Get(name)
		if err != nil || a.Volume == nil {
			t.Errorf("the plugin of %s has no %s: %v", h.Name, name, err)
		}
	}
}
