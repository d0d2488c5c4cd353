package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
)

// TestMerge: equal findings of several nodes become one, whose subject names the nodes. It names no node if the local
// node is the only one.
func TestMerge(t *testing.T) {
	down := api.Finding{Level: Warning, Subject: "guard", Text: "does not answer"}
	full := api.Finding{Level: Error, Subject: "root", Text: "is full"}
	other := api.Finding{Level: Error, Subject: "root", Text: "is full", Fix: "df -h"}
	of := func(node string, f api.Finding) OfNode { return OfNode{Node: node, Finding: f} }
	named := func(f api.Finding, subject string) api.Finding { f.Subject = subject; return f }
	for name, c := range map[string]struct {
		all  []OfNode
		want []api.Finding
	}{
		"none":            {nil, []api.Finding{}},
		"local":           {[]OfNode{of("a", down)}, []api.Finding{down}},
		"remote":          {[]OfNode{of("b", down)}, []api.Finding{named(down, "guard on b")}},
		"both":            {[]OfNode{of("b", down), of("a", down)}, []api.Finding{named(down, "guard on a, b")}},
		"repeated":        {[]OfNode{of("a", down), of("a", down)}, []api.Finding{down}},
		"errors first":    {[]OfNode{of("a", down), of("a", full)}, []api.Finding{full, down}},
		"another fix":     {[]OfNode{of("b", full), of("c", other)}, []api.Finding{named(full, "root on b"), named(other, "root on c")}},
		"more than three": {[]OfNode{of("b", down), of("c", down), of("d", down), of("e", down)}, []api.Finding{named(down, "guard on b, c, d and 1 more")}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, Merge(c.all, "a")); d != "" {
				t.Errorf("Merge (-want +got):\n%s", d)
			}
		})
	}
}
