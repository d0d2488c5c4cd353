// Package volumes is what has to be true of volumes wherever Drover keeps its records: on
// one host in a file, and in a cluster in Consul. Tests of both run it (test/product,
// test/cluster). Cases are named after their scenarios and invariants, and leave nothing.
package volumes

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// Profiles are those that the suite wants, as text of profiles.yaml.
const Profiles = `default: bronze
profiles:
  bronze: {on_delete: {trash: 1h}}
  silver: {size: 512MiB, on_delete: {trash: 1h}}
  gold: {size: 1GiB, filesystem: {type: xfs}, on_delete: {trash: 1h}}
  brief: {size: 1GiB, on_delete: purge}
`

// World is a Drover with an engine that uses it.
type World struct {
	Engine *engine.Engine
	Host   *host.Host // whose plugin the engine asks
	// Name is the node's; Admin where people ask who may everything: the host itself, or
	// a control replica.
	Name  string
	Admin *host.Host
	// Askers are all that answer people: each says the same of a wrong word.
	Askers []*host.Host
}

// image is what runs where any would do; its volume is at /data.
const image = "drover-redis"

// Run runs the suite. What other volumes there are it leaves alone.
func Run(t *testing.T, w World) {
	before := w.volumes(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, World)
	}{
		{"A1 A2 a database and its clone", database},
		{"A3 Compose", compose},
		{"A7 snapshots", snapshots},
		{"A10 I6 wrong words", wrong},
		{"I5 one name at once", atOnce},
		{"B8 I11 in use", InUse},
		{"B9 protected", protected},
		{"B10 asked again", again},
		{"B17 spellings", Spellings},
		{"trash and purge", trash},
		{"import and export", carried},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(t, w)
			if after := w.volumes(t); !slices.Equal(before, after) {
				t.Errorf("volumes before %v, after %v", before, after)
			}
		})
	}
}

func (w World) docker(t testing.TB, args ...string) string {
	t.Helper()
	return w.Engine.Must(t, args...)
}

// create makes a volume as people do.
func (w World) create(t testing.TB, spec string, more ...string) {
	t.Helper()
	w.docker(t, slices.Concat([]string{"volume", "create", "-d", w.Host.Driver}, more, []string{spec})...)
}

// refused runs a docker command that has to fail, and say so.
func (w World) refused(t testing.TB, want string, args ...string) {
	t.Helper()
	if r := w.Engine.Docker(t, args...); r.Exit == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("want exit status and %q, got exit %d: %v", want, r.Exit, r)
	}
}

// run starts a container that has a volume at /data and waits to be stopped.
func (w World) run(t testing.TB, name, volume string) {
	t.Helper()
	w.docker(t, "run", "--detach", "--name", name, "--stop-signal", "KILL", "--volume", volume+":/data",
		"--volume-driver", w.Host.Driver, image, "sleep", "infinity")
}

// once runs a command in a container that has a volume at /data.
func (w World) once(t testing.TB, volume, command string) string {
	t.Helper()
	return w.docker(t, "run", "--rm", "--volume", volume+":/data", "--volume-driver", w.Host.Driver, image, "sh",
		"-c", command)
}

// record is what is on record of a volume, as a person is told.
func (w World) record(t testing.TB, name string) (v api.Volume) {
	t.Helper()
	w.Admin.JSON(t, &v, "volume", "inspect", name)
	return v
}

func (w World) volumes(t testing.TB) []string {
	t.Helper()
	var all []api.Volume
	w.Admin.JSON(t, &all, "volume", "ls")
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = v.Volume
	}
	return names
}

// status is what docker volume inspect shows of a volume of ours.
type status struct {
	Driver, Mountpoint string

	Status struct {
		Dataset, Volume, Profile, Node string
		Size                           int64
		Mounts                         []dataset.Mount
	}
}

func (w World) inspect(t testing.TB, spelling string) status {
	t.Helper()
	var list []status
	out := w.docker(t, "volume", "inspect", spelling)
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v in %s", err, out)
	}
	return list[0]
}

// lastLine says why: before it may stand how far an operation is.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
