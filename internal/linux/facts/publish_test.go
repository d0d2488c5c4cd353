package facts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/dataset"
)

func published() (dataset.Node, dataset.Facts) {
	return dataset.Node{Name: "web1", Labels: map[string]string{"rack": "r1", "a.b/c": "x y"}}, dataset.Facts{
		Architecture: "x86_64", Kernel: "6.12", OS: "debian", CPUs: 4, Virtual: true, MemoryTotal: 8 << 30,
		MemoryFree: 2 << 30,
		Load1:      0.5, Load10: 3.14159, Load15: 2, Backends: []string{"btrfs", "dir", "loop", "zfs"},
		Pools: []dataset.PoolFacts{
			{Name: "fast", Backend: "loop", Online: true, Free: 7}, {Name: "gone", Backend: "zfs", Free: 9},
			{Name: "large", Backend: "loop", Online: true, Free: 8},
		},
	}
}

// Only online pools and their backends are published, so that a constraint on them selects hosts where a volume can be
// created.
func TestPublished(t *testing.T) {
	want := map[string]string{
		"node": "web1", "architecture": "x86_64", "kernel": "6.12", "os": "debian", "is_virtual": "true", "cpus": "4",
		"memory_total": "8589934592", "memory_free": "2147483648", "load_1": "0.5", "load_10": "3.14", "load_15": "2",
		"backend.loop": "true", "pool.fast": "true", "pool.fast.free": "7", "pool.large": "true",
		"pool.large.free": "8", "label.rack": "r1", "label.a.b/c": "x y",
	}
	if d := cmp.Diff(want, Published(published())); d != "" {
		t.Error(d)
	}
}

func TestTagsAndMetaForConsul(t *testing.T) {
	want := []string{
		"architecture.x86_64", "backend.loop", "label.a.b/c.x y", "label.rack.r1", "os.debian", "pool.fast",
		"pool.large", "virtual",
	}
	if d := cmp.Diff(want, Tags(published())); d != "" {
		t.Error(d)
	}
	n, f := published()
	meta := Meta(n, f)
	if meta["drover_load_10"] != "3.14" || meta["drover_pool_fast_free"] != "7" ||
		meta["drover_label_a_b_c"] != "x y" || len(meta) != len(Published(n, f)) {
		t.Errorf("%v", meta)
	}
	n.Labels["long"] = strings.Repeat("x", metaValue+1)
	for i := range 100 {
		f.Pools = append(f.Pools, dataset.PoolFacts{Name: fmt.Sprint("p", i), Backend: "loop", Online: true})
	}
	meta = Meta(n, f)
	if _, long := meta["drover_label_long"]; len(meta) != metaPairs || long || meta["drover_architecture"] != "x86_64" {
		t.Errorf("%d pairs: %v", len(meta), meta)
	}
}
