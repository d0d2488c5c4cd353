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
)

// datasets are what lies in a host's pool, live, being made or deleted.
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

// testVolumes does on each host with an engine, and through the command line on each
// other, what is done on one host by itself.
func testVolumes(t *testing.T, w *world) {
	for i, h := range w.Hosts[:2] {
		name := "db-" + h.Name
		other, control := w.Hosts[2], w.Controls[i]
		h.Docker(t, "volume", "create", "--driver", "drover", name+"@gold")
		once(t, h, name+"@gold", "echo first > /data/file")
		v := other.Inspect(t, name)
		if v.Node != h.Name || v.Profile.Name != "gold" || v.Epoch == 0 {
			t.Errorf("%s tells %+v of %s's volume", other.Name, v, h.Name)
		}
		listed(t, w, name)

		// What is asked for at control is done at home; other nodes may look, and no more.
		if r := other.Exec(t, "snapshot", "create", name); r.Exit != 1 || !strings.Contains(r.Err, "may not ask for this snapshot of volume "+name) {
			t.Errorf("%s makes snapshots of %s's volume: %s", other.Name, h.Name, r.Err)
		}
		control.Must(t, "snapshot", "create", name, "--name", "one", "-m", "from control")
		once(t, h, name+"@gold", "echo second > /data/file")
		h.Docker(t, "volume", "create", "--driver", "drover", name+"-copy@snapshot-"+snapshot(t, h, name))
		if got := once(t, h, name+"-copy", "cat /data/file"); got != "first" {
			t.Errorf("the clone has %q", got)
		}
		control.Must(t, "clone", name, name+"-clone")
		if got := once(t, h, name+"-clone", "cat /data/file"); got != "second" {
			t.Errorf("the clone of now has %q", got)
		}
		control.Must(t, "snapshot", "restore", name, "one")
		if got := once(t, h, name+"@gold", "cat /data/file"); got != "first" {
			t.Errorf("after the restore: %q", got)
		}
		control.Must(t, "volume", "resize", name, "2GiB")

		// In the trash, back, and gone, from the engine and from elsewhere.
		h.Docker(t, "volume", "rm", name+"@gold")
		control.Must(t, "trash", "restore", v.ID.String())
		if got := once(t, h, name, "cat /data/file"); got != "first" {
			t.Errorf("back from the trash: %q", got)
		}
		for _, n := range []string{name, name + "-copy", name + "-clone"} {
			control.Must(t, "volume", "rm", n)
		}
		h.Docker(t, "volume", "create", "--driver", "drover", name+"@brief")
		if again := other.Inspect(t, name); again.ID == v.ID || again.Profile.Name != "brief" {
			t.Errorf("a new %s is %+v", name, again)
		}
		h.Docker(t, "volume", "rm", name+"@brief")
	}
	wrong(t, w)
}

// snapshot is the start of the UUID of a volume's only snapshot.
func snapshot(t *testing.T, h *cluster.Host, volume string) string {
	t.Helper()
	ids := strings.Fields(h.Drover(t, "snapshot", "ls", volume, "-q"))
	if len(ids) != 1 {
		t.Fatalf("snapshots of %s: %v", volume, ids)
	}
	return ids[0][:8]
}

// listed fails unless every host's command line has the volume, and each engine inspects
// it.
func listed(t *testing.T, w *world, name string) {
	t.Helper()
	for _, h := range w.Hosts {
		if all := w.volumes(t, h); !slices.Contains(all, name) {
			t.Errorf("%s lists %v, without %s", h.Name, all, name)
		}
		a, err := h.Plug(t).Get(name)
		if err != nil || a.Volume == nil {
			t.Errorf("the plugin of %s has no %s: %v", h.Name, name, err)
		}
	}
}

// lastLine is the one that says why: before it stands how far an operation of another host
// is.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// wrong words get the same line at home, elsewhere and at control, and change nothing.
func wrong(t *testing.T, w *world) {
	before := w.volumes(t, w.Hosts[0])
	for _, h := range []*host.Host{w.Controls[1].Host, w.Hosts[0].Host, w.Hosts[1].Host, w.Hosts[2].Host} {
		for want, args := range map[string][]string{
			`no such volume: "nosuch"`:   {"volume", "inspect", "nosuch"},
			`unknown profile "golden"`:   {"volume", "create", "x1@golden"},
			"no such node":               {"node", "inspect", "nosuch"},
			`unknown option "sise"`:      {"volume", "create", "x1", "-o", "sise=1GiB"},
			"no snapshot or dataset has": {"volume", "create", "x1@snapshot-00000000"},
		} {
			if r := h.Exec(t, args...); r.Exit == 0 || !strings.Contains(lastLine(r.Err), want) {
				t.Errorf("drover %v: exit %d, %q, want %q", args, r.Exit, r.Err, want)
			}
		}
	}
	inUse := []string{"volume", "rm", "always-host-a", "--force"}
	for _, h := range []*host.Host{w.Controls[0].Host, w.Hosts[0].Host} {
		if r := h.Exec(t, inUse...); r.Exit != 1 || !strings.Contains(lastLine(r.Err), "cannot remove volume always-host-a: it is mounted by") {
			t.Errorf("drover %v: exit %d, %q", inUse, r.Exit, r.Err)
		}
	}
	if after := w.volumes(t, w.Hosts[2]); !slices.Equal(before, after) {
		t.Errorf("volumes before %v, after %v", before, after)
	}
}
