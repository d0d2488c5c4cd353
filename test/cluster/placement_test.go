package cluster_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
)

const placed = `default: anywhere
profiles:
  anywhere: {on_delete: purge}
  there: {placement: 'node == "host-b" and load_10 < 100000', on_delete: purge}
  nowhere: {placement: 'load_10 < 100000 and node matches "^db"'}
`

// home returns the node of a volume, as shown by a host.
func home(t *testing.T, h *cluster.Host, volume string) string {
	t.Helper()
	var v api.Volume
	if err := json.Unmarshal([]byte(h.Must(t, "volume", "inspect", volume, "-o", "json")), &v); err != nil {
		t.Fatal(err)
	}
	return v.Node
}

// TestA9: facts of all nodes are in the store, a placement picks a node that fits, whichever node requests it, and
// the error says for each node why it does not fit.
func TestA9(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Consul: 1, Engines: 1, Profiles: placed})
	a, b := c.Hosts[0], c.Hosts[1]
	host.Await(t, "every host has told its facts", func() error {
		var nodes []api.Node
		if err := json.Unmarshal([]byte(a.Must(t, "node", "ls", "-o", "json", "--placement", `cpus > 0 and pool.free > "1MiB"`)), &nodes); err != nil {
			return err
		}
		if len(nodes) != len(c.Hosts) {
			return fmt.Errorf("%d of them", len(nodes))
		}
		return nil
	})

	// Concurrent creates for one name on several hosts are one volume (I5).
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { a.Docker(t, "volume", "create", "-d", "drover", "db@there") })
		all.Go(func() { c.Hosts[2].Must(t, "volume", "create", "db@there") })
	}
	all.Wait()
	if at := home(t, a, "db"); at != b.Name {
		t.Errorf("the volume is on %s, and its placement says %s", at, b.Name)
	}
	if out := a.Docker(t, "volume", "inspect", "db@there"); !strings.Contains(out, `"db@there"`) {
		t.Errorf("the engine that asked sees %s", out)
	}

	r := a.Engine.Docker(t, "volume", "create", "-d", "drover", "nope@nowhere")
	if r.Exit == 0 {
		t.Error("a volume went where it may not be")
	}
	for _, h := range c.Hosts {
		if want := "node " + h.Name + ": pool default: node is \"" + h.Name + "\", which does not match ^db"; !strings.Contains(r.Stderr, want) {
			t.Errorf("%q does not say %q", r.Stderr, want)
		}
	}

	// A cordoned or unreachable node is skipped. Otherwise the requesting node comes first.
	a.Docker(t, "volume", "create", "-d", "drover", "mine")
	c.Controls[0].Must(t, "node", "cordon", a.Name)
	a.Docker(t, "volume", "create", "-d", "drover", "others")
	if mine, others := home(t, a, "mine"), home(t, a, "others"); mine != a.Name || others == a.Name {
		t.Errorf("before it was cordoned %s, then %s", mine, others)
	}
	b.Kill9(t)
	host.Await(t, "a node that is away is passed over", func() error {
		r := a.Engine.Docker(t, "volume", "create", "-d", "drover", "late@there")
		if !strings.Contains(r.Stderr, "node host-b: pool default: its node is unreachable") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	b.Up(t)
	c.Controls[0].Must(t, "node", "cordon", "--off", a.Name)
}
