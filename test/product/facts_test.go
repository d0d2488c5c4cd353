package product

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

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
	var nodes []api.Node
	host.Await(t, "the facts are recorded", func() error {
		if h.JSON(t, &nodes, "node", "ls"); len(nodes) != 1 || nodes[0].Facts == nil {
			return fmt.Errorf("%+v", nodes)
		}
		return nil
	})
	for name, want := range map[string]string{
		"mine": "kept", "drover.pool.gone": "", "drover.label.rack": "r1", "drover.architecture": nodes[0].Facts.Architecture, "drover.node": "host-a",
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
