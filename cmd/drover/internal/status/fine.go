package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Fine returns findings of level ok: the nodes, pools, control replicas and volumes without a warning or error in list,
// the operations in progress, and what the doctor of the server's host found to work.
func Fine(c Cluster, list []api.Finding, now time.Time) []api.Finding {
	var out []api.Finding
	add := func(subject, format string, args ...any) {
		hasFinding := slices.ContainsFunc(list, func(f api.Finding) bool {
			return f.Subject == subject && cli.NeedsAttention(f)
		})
		if !hasFinding {
			out = append(out, api.Finding{Level: cli.OK, Subject: subject, Text: fmt.Sprintf(format, args...)})
		}
	}
	for _, n := range c.Nodes {
		if n.Live && n.Removed.IsZero() {
			add("node "+n.Name, "reachable, version %s", n.Version)
		}
	}
	for _, p := range c.Pools {
		subject := "pool " + p.Name
		if p.NodeName != c.Local {
			subject += " on " + p.NodeName
		}
		if st := p.Status; st != nil && st.Online && !p.Unreachable {
			add(subject, "online, %s of %s is free", st.Free.Human(), st.Size.Human())
		}
	}
	if h := c.Health; h != nil {
		for _, r := range h.Replicas {
			work := ""
			if r.Housekeeper {
				work = "; does the background work"
			}
			add("control "+r.Name, "at %s, running since %s, version %s%s", r.Address, cli.When(now, r.Since),
				r.Version, work)
		}
		if h.Store.Leader != "" {
			add("store", "%s, its leader is %s", h.Store.Kind, h.Store.Leader)
		}
	}
	if !c.VolumesUnknown {
		withFinding := map[string]bool{}
		for _, f := range list {
			if cli.NeedsAttention(f) {
				withFinding[f.Subject] = true
			}
		}
		well := 0
		for i := range c.Volumes {
			if !withFinding["volume "+cli.ShortName(c.Volumes[i].Volume)] {
				well++
			}
		}
		add("volumes", "without a problem: %d of %d", well, len(c.Volumes))
	}
	pending := 0
	for _, op := range c.Operations {
		if !op.State.Final() && op.Kind != dataset.OpPurge {
			pending++
		}
	}
	add("operations", "in progress: %d", pending)
	for _, f := range c.Doctor {
		known := slices.ContainsFunc(out, func(o api.Finding) bool {
			return o.Subject == f.Subject || strings.HasPrefix(f.Subject, "volume ")
		})
		if f.Level == cli.OK && !known {
			out = append(out, f)
		}
	}
	return out
}
