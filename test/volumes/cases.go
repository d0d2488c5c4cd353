package volumes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

// database: a real database runs on a volume of profile gold. It is cloned by the UUID of its dataset while it runs.
func database(t *testing.T, w World) {
	redis := engine.Redis()
	serve := func(name, volume string) {
		t.Helper()
		w.docker(t, "run", "--detach", "--name", name, "--volume", volume+":/data", "--volume-driver",
			w.Host.Driver, image)
		redis.Await(t, w.Engine, name)
	}
	serve("first", "demo@gold")
	st := w.inspect(t, "demo@gold")
	if s := st.Status; st.Driver != w.Host.Driver || s.Profile != "gold" || s.Node != w.Name || s.Size != 1<<30 ||
		len(s.Mounts) != 1 || !strings.Contains(st.Mountpoint, s.Dataset) {
		t.Errorf("%+v", st)
	}
	if v := w.record(t, "demo"); v.ID.String() != st.Status.Dataset || v.Node != w.Name || v.Epoch == 0 {
		t.Errorf("on record: %+v", v)
	}
	redis.Query(t, w.Engine, "first", "SET order 7")
	redis.Query(t, w.Engine, "first", "SAVE")
	serve("second", "demo-snap@snapshot-"+st.Status.Dataset[:8])
	if got := redis.Query(t, w.Engine, "second", "GET order"); got != "7" {
		t.Errorf("the clone has %q", got)
	}
	redis.Query(t, w.Engine, "second", "SET order 8")
	if got := redis.Query(t, w.Engine, "first", "GET order"); got != "7" {
		t.Errorf("what the clone wrote is in the original: %q", got)
	}
	w.docker(t, "rm", "-f", "first", "second")
	w.docker(t, "volume", "rm", "demo@gold", "demo-snap@snapshot-"+st.Status.Dataset[:8])
}

// snapshots: they are taken, cloned and restored; restoring is refused while the volume is in use. Newer
// snapshots stay.
func snapshots(t *testing.T, w World) {
	w.once(t, "snapped@gold", "echo first > /data/file")
	w.Admin.Must(t, "snapshot", "create", "snapped", "--name", "one", "-m", "from the suite")
	w.once(t, "snapped@gold", "echo second > /data/file")
	w.Admin.Must(t, "snapshot", "create", "snapped", "--name", "two")
	ids := strings.Fields(w.Admin.Must(t, "snapshot", "ls", "snapped", "-q"))
	if len(ids) != 2 {
		t.Fatalf("snapshots: %v", ids)
	}
	w.create(t, "snapped-copy@snapshot-"+ids[0][:8])
	if got := w.once(t, "snapped-copy", "cat /data/file"); got != "first" {
		t.Errorf("the clone has %q", got)
	}
	w.Admin.Must(t, "clone", "snapped", "snapped-clone")
	if got := w.once(t, "snapped-clone", "cat /data/file"); got != "second" {
		t.Errorf("the clone of now has %q", got)
	}
	w.run(t, "holder", "snapped@gold")
	holder := w.inspect(t, "snapped@gold").Status.Mounts[0].ID[:12]
	if r := w.Admin.Exec(t, "snapshot", "restore", "snapped", "one"); r.Exit != 1 ||
		!strings.Contains(r.FirstError(), "cannot restore volume snapped: it is mounted by "+holder+" on node "+
			w.Name) {
		t.Errorf("restored while in use: %+v", r)
	}
	w.docker(t, "rm", "-f", "holder")
	w.Admin.Must(t, "snapshot", "restore", "snapped", "one")
	if got := w.once(t, "snapped@gold", "cat /data/file"); got != "first" {
		t.Errorf("after the restore: %q", got)
	}
	if out := w.Admin.Must(t, "snapshot", "ls", "snapped"); !strings.Contains(out, "two") {
		t.Errorf("a newer snapshot went with the restore: %s", out)
	}
	w.Admin.Must(t, "volume", "resize", "snapped", "2GiB")
	for _, n := range []string{"snapped", "snapped-copy", "snapped-clone"} {
		w.Admin.Must(t, "volume", "rm", n, "--yes")
	}
}

// invalidRequests: an invalid name or option is answered with one line that says what would be valid, by every host and
// control replica.
func invalidRequests(t *testing.T, w World) {
	for _, h := range w.Servers {
		for want, args := range map[string][]string{
			`no such volume: "nosuch"`: {"volume", "inspect", "nosuch"},
			`unknown profile "golden"`: {"volume", "create", "x1@golden"},
			"no such node":             {"node", "inspect", "nosuch"},
			`unknown option "sise"`:    {"volume", "create", "x1", "-o", "sise=1GiB"},
			"no snapshot or dataset ":  {"volume", "create", "x1@snapshot-00000000"},
		} {
			if r := h.Exec(t, args...); r.Exit == 0 || !strings.Contains(lastLine(r.Err), want) {
				t.Errorf("drover %v: exit %d, %q, want %q", args, r.Exit, r.Err, want)
			}
		}
	}
	w.refused(t, `; did you mean gold?`, "volume", "create", "-d", w.Host.Driver, "x1@golden")
	w.refused(t, `unknown option "sise"`, "volume", "create", "-d", w.Host.Driver, "-o", "sise=1GiB", "x1")
	w.refused(t, `unknown profile "golden"`, "run", "--rm", "-v", "x1@golden:/data", "--volume-driver",
		w.Host.Driver, image, "true")
}

// InUse is a separate case: a volume in use is removed neither for the engine nor for an operator.
func InUse(t *testing.T, w World) {
	w.run(t, "user", "busy@gold")
	id := w.inspect(t, "busy@gold").Status.Mounts[0].ID
	w.refused(t, "volume is in use", "volume", "rm", "busy@gold")
	w.refused(t, "volume is in use", "volume", "rm", "-f", "busy@gold")
	want := "cannot remove volume busy: it is mounted by " + id[:12] + " on node " + w.Name +
		" (stop its containers first; docker ps -a --filter volume=busy@gold shows them)"
	if err := w.Host.Plug(t).Remove("busy@gold"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Remove: %v, want %s", err, want)
	}
	for _, h := range []string{"", "--force"} {
		args := slices.DeleteFunc([]string{"volume", "rm", "busy", h}, func(a string) bool { return a == "" })
		if r := w.Admin.Exec(t, args...); r.Exit != 1 || r.FirstError() != "drover: "+want {
			t.Errorf("drover %v: exit %d, %q, want %s", args, r.Exit, r.Err, want)
		}
	}
	w.docker(t, "exec", "user", "sh", "-c", "echo still > /data/here")
	w.docker(t, "stop", "user")
	w.refused(t, "volume is in use", "volume", "rm", "busy@gold")
	w.docker(t, "rm", "user")
	w.docker(t, "volume", "rm", "busy@gold")
}

// protected: prune skips the volume, and rm refuses it.
func protected(t *testing.T, w World) {
	w.create(t, "dear", "-o", "protect=true")
	w.docker(t, "volume", "prune", "-f")
	const want = "volume dear is protected (drover volume protect --off dear)"
	w.refused(t, want, "volume", "rm", "dear")
	if err := w.Host.Plug(t).Remove("dear"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Remove: %v", err)
	}
	w.Admin.Must(t, "volume", "protect", "--off", "dear")
	w.docker(t, "volume", "rm", "dear")
}

// repeatedCreates: creating an existing volume succeeds if it is as requested, and is refused otherwise. The engine
// does not pass the options for an existing name to the plugin, so the test asks the plugin itself.
func repeatedCreates(t *testing.T, w World) {
	plug := w.Host.Plug(t)
	for range 2 {
		require.NoError(t, plug.Create("twice@gold", map[string]string{"size": "900MiB", "label.team": "a"}))
	}
	first := w.inspect(t, "twice@gold").Status.Dataset
	for _, c := range []struct {
		name string
		opts map[string]string
		want string
	}{
		{"twice", nil, ""},
		{"twice@gold", nil, ""},
		{"twice", map[string]string{"profile": "gold", "size": "921600KiB"}, ""},
		{"twice@gold", map[string]string{"size": "800MiB"},
			`volume "twice" exists with size 900MiB, not 800MiB (drover volume resize twice 800MiB)`},
	} {
		err := plug.Create(c.name, c.opts)
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || err != nil && !strings.HasSuffix(got, c.want) {
			t.Errorf("Create %s %v: %q, want %q", c.name, c.opts, got, c.want)
		}
	}
	if now := w.inspect(t, "twice@gold").Status.Dataset; now != first {
		t.Errorf("dataset %s became %s", first, now)
	}
	w.Admin.Must(t, "volume", "rm", "twice")
}

// Spellings is a separate case: the plain name and the name with the profile are the same volume. The engine
// lists the name that was used last. A name that contradicts the volume is refused, and changes nothing.
func Spellings(t *testing.T, w World) {
	w.create(t, "till@gold")
	const want = `create till@silver: VolumeDriver.Create: drover: volume "till" exists with profile gold, ` +
		`not silver (use till, or drover volume set-profile till silver)`
	w.refused(t, want, "volume", "create", "-d", w.Host.Driver, "till@silver")
	w.refused(t, want, "run", "--rm", "-v", "till@silver:/data", "--volume-driver", w.Host.Driver, image, "true")
	listed := func() string { return w.docker(t, "volume", "ls", "-q", "-f", "name=till") }
	if got := listed(); got != "till@gold" {
		t.Errorf("after both refusals: %s", got)
	}
	w.once(t, "till@gold", "echo one > /data/file")
	if got := w.once(t, "till", "cat /data/file"); got != "one" {
		t.Errorf("till has %q, want what till@gold has", got)
	}
	if got := listed(); got != "till" {
		t.Errorf("after the engine asked for till: %s", got)
	}
	w.docker(t, "volume", "rm", "till") // no container needs the other name
	if got := listed(); got != "" {
		t.Errorf("after the removal: %s", got)
	}
}

// trash: a volume goes to the trash, is restored, and is purged. A name that is used again gets a new dataset.
// With purge on delete the dataset is destroyed at once.
func trash(t *testing.T, w World) {
	w.once(t, "junk@gold", "echo first > /data/file")
	v := w.record(t, "junk")
	w.docker(t, "volume", "rm", "junk@gold")
	w.Admin.Must(t, "trash", "restore", v.ID.String())
	if got := w.once(t, "junk", "cat /data/file"); got != "first" {
		t.Errorf("back from the trash: %q", got)
	}
	w.Admin.Must(t, "volume", "rm", "junk")
	w.create(t, "junk@brief")
	if now := w.record(t, "junk"); now.ID == v.ID || now.Profile.Name != "brief" {
		t.Errorf("a new junk is %+v", now)
	}
	w.docker(t, "volume", "rm", "junk@brief")
	w.Admin.Must(t, "trash", "purge", v.ID.String(), "--yes")
	if out := w.Admin.Must(t, "trash", "ls", "-q"); strings.Contains(out, v.ID.String()) {
		t.Errorf("purged, it is in the trash: %s", out)
	}
	w.restoredForContainer(t)
}

// restoredForContainer: a stopped container starts with a volume that is back from the trash. It names the volume by
// the profile that the volume had when the container was created.
func (w World) restoredForContainer(t *testing.T) {
	w.Admin.Must(t, "volume", "create", "kept@gold")
	w.run(t, "keeper", "kept@gold")
	w.Admin.Must(t, "volume", "set-profile", "kept", "silver")
	w.docker(t, "stop", "keeper")
	w.Admin.Must(t, "volume", "rm", "kept")
	w.refused(t, "get kept@gold: no such volume", "start", "keeper")
	w.Admin.Must(t, "trash", "restore", "kept")
	w.docker(t, "start", "keeper")
	w.docker(t, "rm", "-f", "keeper")
	w.docker(t, "volume", "rm", "kept@gold")
}

// exportAndImport: a volume that is exported and imported has the same files.
func exportAndImport(t *testing.T, w World) {
	w.once(t, "out@gold", "echo carried > /data/file && chown 5:6 /data/file")
	r := w.Host.Exec(t, "volume", "export", "out")
	if r.Exit != 0 {
		t.Fatalf("%s", r.Err)
	}
	if r := w.Host.ExecIn(t, []byte(r.Out), "volume", "import", "in@silver", "--from", "-"); r.Exit != 0 {
		t.Fatalf("%s", r.Err)
	}
	if got := w.once(t, "in", "cat /data/file; stat -c %u:%g /data/file"); got != "carried\n5:6" {
		t.Errorf("imported: %q", got)
	}
	for _, n := range []string{"out", "in"} {
		w.Admin.Must(t, "volume", "rm", n, "--yes")
	}
}
