package product

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

const placedProfiles = `default: anywhere
profiles:
  anywhere:
  here: {placement: 'load_10 < 100000 and cpus >= 1 and labels.rack == "r1" and pool.free > "1MiB"'}
  calm: {placement: 'load_10 < 100000 and memory_free > "900TiB"'}
  other: {placement: 'architecture == "vax"'}
`

// awaitFacts returns the only node with its facts, once they satisfy a condition.
func awaitFacts(t *testing.T, h *host.Host, want func(api.Node) bool) api.Node {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var nodes []api.Node
		if err := json.Unmarshal([]byte(h.Must(t, "node", "ls", "-o", "json")), &nodes); err != nil || len(nodes) != 1 {
			t.Fatalf("%v, %d nodes", err, len(nodes))
		}
		if nodes[0].Facts != nil && want(nodes[0]) {
			return nodes[0]
		}
		if time.Now().After(end) {
			t.Fatalf("facts: %+v", nodes[0].Facts)
		}
	}
}

// TestA9 on one host: its facts are on record, a profile's placement is obeyed, and the error in docker's output says
// which comparison failed with which value.
func TestA9(t *testing.T) {
	w := begin(t, host.Options{Profiles: placedProfiles, Config: "labels: {rack: r1}\n"}, engine.Options{})
	n := awaitFacts(t, w.h, func(api.Node) bool { return true })
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if f := n.Facts; f.Kernel != strings.TrimSpace(string(release)) || f.CPUs < 1 || f.MemoryTotal <= 0 || len(f.Pools) != 1 || f.Pools[0].Free <= 0 || !f.Pools[0].Online {
		t.Errorf("%+v", f)
	}
	w.docker(t, "volume", "create", "-d", w.h.Driver, "db@here")
	if out := w.drover(t, "volume", "inspect", "db", "-o", "json"); !strings.Contains(out, `"placement"`) {
		t.Errorf("the placement is not frozen into the volume: %s", out)
	}
	w.refused(t, `pool default cannot satisfy profile other: architecture is "`+n.Facts.Architecture+`", not == "vax"`,
		"volume", "create", "-d", w.h.Driver, "nope@other")
	w.refused(t, "memory_free is ", "volume", "create", "-d", w.h.Driver, "nope@calm")
	w.refused(t, "not > 900TiB", "run", "--rm", "-v", "nope@calm:/data", "--volume-driver", w.h.Driver, image, "true")
	if out := w.drover(t, "volume", "ls", "-q"); len(strings.Fields(out)) != 1 {
		t.Errorf("something was made: %s", out)
	}

	if out := w.drover(t, "node", "ls", "-q", "--placement", `labels.rack == "r1" and pool.name == "default"`); strings.TrimSpace(out) != n.ID.String() {
		t.Errorf("filtered: %q", out)
	}
	if out := w.drover(t, "node", "ls", "-q", "--placement", `is_virtual and not is_virtual`); out != "" {
		t.Errorf("filtered: %q", out)
	}
	w.drover(t, "node", "cordon", "host-a")
	w.refused(t, "its node is cordoned", "volume", "create", "-d", w.h.Driver, "late")
	w.once(t, "db@here", "echo still > /data/x") // existing volumes work
	w.drover(t, "node", "cordon", "--off", "host-a")
	w.docker(t, "volume", "create", "-d", w.h.Driver, "late")
}

// TestSwarmLabels: facts become labels of the Swarm's node. Services are placed by these labels, and not where the
// labels do not match.
func TestSwarmLabels(t *testing.T) {
	h := host.Start(t, host.Options{Down: true, Flags: []string{"--publish-facts", "swarm"}, Config: "labels: {rack: r1}\npools: [{name: fast, backend: dir, path: $DIR/fast}]\n"})
	m := lan.New(t).Machine("alone", nil)
	e := engine.Start(t, engine.Options{On: m})
	e.Must(t, "swarm", "init", "--advertise-addr", m.IP)
	id := strings.TrimSpace(e.Must(t, "node", "ls", "-q"))
	e.Must(t, "node", "update", "--label-add", "mine=kept", "--label-add", "drover.pool.gone=true", id)
	h.Env = append(h.Env, "DOCKER_HOST="+e.Host)
	h.Up(t)
	label := func(name string) string {
		return strings.TrimSpace(e.Must(t, "node", "inspect", "--format", `{{index .Spec.Labels "`+name+`"}}`, "self"))
	}
	for end := time.Now().Add(3 * time.Minute); label("drover.pool.fast") != "true"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(e.Must(t, "node", "inspect", "self"))
		}
	}
	n := awaitFacts(t, h, func(api.Node) bool { return true })
	for name, want := range map[string]string{
		"mine": "kept", "drover.pool.gone": "", "drover.label.rack": "r1", "drover.architecture": n.Facts.Architecture, "drover.node": "host-a",
		"drover.engine_version": e.Must(t, "version", "--format", "{{.Server.Version}}"),
	} {
		if got := label(name); got != strings.TrimSpace(want) {
			t.Errorf("label %s is %q, not %q", name, got, want)
		}
	}
	service := func(name, constraint string) {
		e.Must(t, "service", "create", "--detach", "--no-resolve-image", "--network", "host", "--name", name, "--constraint", constraint, image, "sleep", "infinity")
	}
	service("fast", "node.labels.drover.pool.fast==true")
	service("slow", "node.labels.drover.pool.fast!=true")
	service("calm", "node.labels.drover.load_10==-1")
	state := func(name string) string {
		return e.Must(t, "service", "ps", "--format", "{{.CurrentState}} {{.Error}}", name)
	}
	for end := time.Now().Add(2 * time.Minute); !strings.HasPrefix(state("fast"), "Running"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the service whose constraint holds: %s", state("fast"))
		}
	}
	for _, name := range []string{"slow", "calm"} {
		if got := state(name); !strings.HasPrefix(got, "Pending") || !strings.Contains(got, "no suitable node") {
			t.Errorf("service %s, whose constraint does not hold: %s", name, got)
		}
	}
	e.Must(t, "service", "rm", "fast", "slow", "calm")
	e.Must(t, "swarm", "leave", "--force")
}
