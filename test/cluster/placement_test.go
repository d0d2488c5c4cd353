package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/host"
)

// testA9: a placement picks a node that fits, whichever node requests it, and the error says for each node why it does
// not fit.
func testA9(t *testing.T, w *world) {
	a, b := w.Hosts[0], w.Hosts[1]
	host.Await(t, "every host has told its facts", func() error {
		var nodes []api.Node
		w.Controls[0].JSON(t, &nodes, "node", "ls", "--placement", `cpus > 0 and pool.free > "1MiB"`)
		if len(nodes) != len(w.Hosts) {
			return fmt.Errorf("%d of them", len(nodes))
		}
		return nil
	})
	a.Docker(t, "volume", "create", "-d", "drover", "placed@there")
	if v := a.Inspect(t, "placed"); v.Node != b.Name {
		t.Errorf("the volume is on %s, and its placement says %s", v.Node, b.Name)
	}
	r := a.Engine.Docker(t, "volume", "create", "-d", "drover", "nope@nowhere")
	if r.Exit == 0 {
		t.Error("a volume went where it may not be")
	}
	for _, h := range w.Hosts {
		if want := "node " + h.Name + ": pool default: node is \"" + h.Name + "\", which does not match ^db"; !strings.Contains(r.Stderr, want) {
			t.Errorf("%q does not say %q", r.Stderr, want)
		}
	}
	w.Controls[0].Must(t, "volume", "rm", "placed", "--yes")
}
