package facts

import (
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/droverhq/drover/dataset"
)

// The limits of Consul for the metadata of one service (metaMaxKeyPairs, metaKeyMaxLength and metaValueMaxLength in
// agent/structs of Consul).
const (
	metaPairs = 64
	metaKey   = 128
	metaValue = 512
)

// Published returns the facts of a node by name, as they are published to other programs. Numbers have no unit, sizes
// are in bytes, and loads have at most two decimals. "pool.fast" and "backend.loop" are "true" for each online pool and
// its backend, and "pool.fast.free" is the free space of the pool. Backends without an online pool are absent, because
// no volume can be created with them. Unknown text values are absent too.
func Published(n dataset.Node, f dataset.Facts) map[string]string {
	out := map[string]string{
		"node": n.Name, "architecture": f.Architecture, "kernel": f.Kernel, "os": f.OS, "os_version": f.OSVersion,
		"engine_version": f.Engine,
		"is_virtual":     strconv.FormatBool(f.Virtual), "cpus": strconv.Itoa(f.CPUs),
		"memory_total": inBytes(f.MemoryTotal), "memory_free": inBytes(f.MemoryFree),
		"load_1": load(f.Load1), "load_10": load(f.Load10), "load_15": load(f.Load15),
	}
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	for _, p := range f.Pools {
		if p.Online {
			out["backend."+p.Backend] = "true"
			out["pool."+p.Name] = "true"
			out["pool."+p.Name+".free"] = inBytes(p.Free)
		}
	}
	for key, value := range n.Labels {
		out["label."+key] = value
	}
	return out
}

func inBytes(s dataset.Size) string { return strconv.FormatInt(int64(s), 10) }

func load(l float64) string { return strconv.FormatFloat(math.Round(l*100)/100, 'f', -1, 64) }

// Tags returns the properties of a node as tags of a service in Consul, in alphabetical order: pool.fast, backend.loop,
// architecture.x86_64, os.debian, label.rack.r1, virtual. The tag of a label with the value "true" is only its name,
// such as label.ssd.
func Tags(n dataset.Node, f dataset.Facts) []string {
	var tags []string
	for name, value := range Published(n, f) {
		switch {
		case value == "true" && name != "is_virtual":
			tags = append(tags, name)
		case name == "architecture" || name == "os" || len(name) > 6 && name[:6] == "label.":
			tags = append(tags, name+"."+value)
		}
	}
	if f.Virtual {
		tags = append(tags, "virtual")
	}
	slices.Sort(tags)
	return tags
}

// Meta returns the facts as metadata of a service in Consul. Keys consist of letters, digits, "-" and "_", such as
// drover_load_10 or drover_pool_fast_free. If two names give the same key, the last one in alphabetical order counts.
// Facts whose key or value is too long for Consul are left out. If there are more keys than Consul accepts, the last
// ones in alphabetical order are left out.
func Meta(n dataset.Node, f dataset.Facts) map[string]string {
	all := Published(n, f)
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		key := []byte("drover_" + name)
		for i, c := range key {
			if c == '.' || c == '/' {
				key[i] = '_'
			}
		}
		if len(out) < metaPairs && len(key) <= metaKey && len(all[name]) <= metaValue {
			out[string(key)] = all[name]
		}
	}
	return out
}
