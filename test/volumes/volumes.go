// Package volumes has the tests of volumes that a single host and a cluster share. A single host keeps its records in
// a file, a cluster in Consul. Packages test/product and test/cluster run the tests. The cases are named after their
// scenarios and invariants, and leave nothing behind. The package keeps no state: a [World] does not change during a
// run, and the cases run one after the other.
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

// Profiles is the text of profiles.yaml that the cases require.
const Profiles = `default: bronze
profiles:
  bronze: {on_delete: {trash: 1h}}
  silver: {size: 512MiB, on_delete: {trash: 1h}}
  gold: {size: 1GiB, filesystem: {type: xfs}, on_delete: {trash: 1h}}
  brief: {size: 1GiB, on_delete: purge}
`

// World is a Drover installation with an engine that uses it.
type World struct {
	Engine *engine.Engine
	Host   *host.Host // the host whose plugin the engine uses
	// Name is the name of the node. Admin is where a person with all rights runs commands: the host itself, or a
	// control replica.
	Name  string
	Admin *host.Host
	// Servers are all hosts and replicas that answer users. Each gives the same answer to an invalid name.
	Servers []*host.Host
}

// image is an image for containers whose program does not matter. Its volume is mounted at /data.
const image = "drover-redis"

// Run runs the suite. It does not touch other volumes.
func Run(t *testing.T, w World) {
	before := w.Admin.Volumes(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, World)
	}{
		{"A1 A2 a database and its clone", database},
		{"A7 snapshots", snapshots},
		{"A10 I6 wrong words", invalidRequests},
		{"B8 I11 in use", InUse},
		{"B9 protected", protected},
		{"B10 asked again", repeatedCreates},
		{"B17 spellings", Spellings},
		{"trash and purge", trash},
		{"import and export", exportAndImport},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(t, w)
			if after := w.Admin.Volumes(t); !slices.Equal(before, after) {
				t.Errorf("volumes before %v, after %v", before, after)
			}
		})
	}
}

func (w World) docker(t testing.TB, args ...string) string {
	t.Helper()
	return w.Engine.Must(t, args...)
}

// create creates a volume with docker volume create.
func (w World) create(t testing.TB, spec string, more ...string) {
	t.Helper()
	w.docker(t, slices.Concat([]string{"volume", "create", "-d", w.Host.Driver}, more, []string{spec})...)
}

// refused runs a docker command that must fail with a certain error.
func (w World) refused(t testing.TB, want string, args ...string) {
	t.Helper()
	if r := w.Engine.Docker(t, args...); r.Exit == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("want exit status and %q, got exit %d: %v", want, r.Exit, r)
	}
}

// run starts a container with a volume at /data. The container waits to be stopped.
func (w World) run(t testing.TB, name, volume string) {
	t.Helper()
	w.docker(t, "run", "--detach", "--name", name, "--stop-signal", "KILL", "--volume", volume+":/data",
		"--volume-driver", w.Host.Driver, image, "sleep", "infinity")
}

// once runs a command in a container with a volume at /data.
func (w World) once(t testing.TB, volume, command string) string {
	t.Helper()
	return w.docker(t, "run", "--rm", "--volume", volume+":/data", "--volume-driver", w.Host.Driver, image, "sh",
		"-c", command)
}

// record returns what drover reports about a volume.
func (w World) record(t testing.TB, name string) (v api.Volume) {
	t.Helper()
	w.Admin.JSON(t, &v, "volume", "inspect", name)
	return v
}

// status is the status that docker volume inspect shows of a volume of Drover.
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

// lastLine returns the last line, which has the reason. The lines before it may show the progress of an
// operation.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
