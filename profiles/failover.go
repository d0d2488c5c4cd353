package profiles

import (
	"path/filepath"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// failover reads "manual" or "auto".
func failover(n strictyaml.Node, f *dataset.Failover) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	if f.Auto = s == "auto"; !f.Auto && s != "manual" {
		return n.Errorf("unknown choice %q (available: auto, manual)", dataset.Clip(s))
	}
	return nil
}

// fence reads "guard", "watchdog", or {exec: [program, …], timeout: 20s}.
func fence(n strictyaml.Node, f *dataset.Fence) error {
	if n.IsMap() {
		return fenceCommand(n, f)
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	switch kind := dataset.FenceKind(s); kind {
	case dataset.FenceGuard, dataset.FenceWatchdog:
		f.Kind = kind
		return nil
	case dataset.FenceExec:
	}
	return n.Errorf("unknown choice %q (available: {exec: [/usr/local/sbin/power-off], timeout: 20s}, guard, watchdog)",
		dataset.Clip(s))
}

func fenceCommand(n strictyaml.Node, f *dataset.Fence) error {
	keys, err := n.Keys([]string{"exec", "timeout"}, nil)
	if err != nil {
		return err
	}
	f.Kind, f.Timeout = dataset.FenceExec, dataset.DefaultFenceTimeout
	var bad strictyaml.Mistakes
	if v, ok := keys["timeout"]; ok {
		if bad.Add(duration(v, &f.Timeout)) && (f.Timeout == 0 || f.Timeout > dataset.MaxFenceTimeout) {
			bad.Add(v.Errorf("expected more than 0, and %s at most", dataset.MaxFenceTimeout))
		}
	}
	items, err := keys["exec"].Items()
	bad.Add(err)
	for _, item := range items {
		s, err := item.String()
		bad.Add(err)
		f.Exec = append(f.Exec, s)
	}
	if err == nil && (len(f.Exec) == 0 || !filepath.IsAbs(f.Exec[0])) {
		bad.Add(n.Errorf("expected a program by its absolute path, such as {exec: [/usr/local/sbin/power-off]}"))
	}
	return bad.Err()
}

func maxLoss(n strictyaml.Node, f *dataset.Failover) error {
	if err := duration(n, &f.MaxLoss); err != nil {
		return err
	}
	if f.MaxLoss == 0 {
		return n.Errorf("a copy always has some age: expected at least the time between two refreshes")
	}
	return nil
}

// shareBackend is the backend of pools on a share that all hosts can reach. After a failover, a volume continues from
// the same data, so it needs no replicas.
const shareBackend = "nfs"

// checkFailover checks that the keys for failover are consistent, and sets their defaults.
func checkFailover(keys map[string]strictyaml.Node, p *dataset.Profile) error {
	var bad strictyaml.Mistakes
	auto := p.Failover.Auto
	if !auto {
		for _, key := range []string{"fence", "max_loss"} {
			if v, ok := keys[key]; ok {
				bad.Add(v.KeyErrorf("it applies only to failover: auto"))
			}
		}
		return bad.Err()
	}
	if p.Access == dataset.AccessMany {
		return nil // checkAccess refuses it with a better message
	}
	if p.Backend == shareBackend {
		if p.Failover.Fence.Kind != dataset.FenceExec {
			bad.Add(keys["failover"].Errorf("auto on a share needs a fence that blocks the lost home's access to " +
				"the share, which a guard or watchdog there does not do: expected fence: {exec: " +
				"[/usr/local/sbin/shut-out], timeout: 20s}"))
		}
		if v, ok := keys["max_loss"]; ok {
			bad.Add(v.KeyErrorf("nothing is lost on a share: omit it"))
		}
		return bad.Err()
	}
	for _, need := range []string{"replicas", "fence"} {
		if _, ok := keys[need]; !ok {
			bad.Add(keys["failover"].Errorf("auto opens a copy on another node once the lost home certainly " +
				"writes no more: expected replicas, such as {count: 1, every: 30s}, and a fence (guard, " +
				"watchdog, or a command)"))
			break
		}
	}
	every := p.Replicas.Every
	if v, ok := keys["max_loss"]; !ok {
		p.Failover.MaxLoss = 2 * every
	} else if p.Failover.MaxLoss > 0 && p.Failover.MaxLoss < every {
		bad.Add(v.Errorf("too low: copies are refreshed only every %s", time.Duration(every)))
	}
	return bad.Err()
}
