package dataset

import (
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Facts are an agent's data about its host, for placement. Texts that are not known are empty.
type Facts struct {
	Node         uuid.UUID   `json:"node"`            // UUID of the node
	Taken        time.Time   `json:"taken"`           // when the facts were recorded, by the clock of control
	Architecture string      `json:"architecture"`    // as uname reports it: x86_64, aarch64
	Kernel       string      `json:"kernel"`          // release of the kernel: 6.18.44
	OS           string      `json:"os"`              // ID of os-release(5): debian
	OSVersion    string      `json:"os_version"`      // VERSION_ID of os-release(5): 12
	Engine       string      `json:"engine_version"`  // version of the container engine; empty: not known
	Virtual      bool        `json:"is_virtual"`      // a virtual machine; a container on a real one is not
	CPUs         int         `json:"cpus"`            // number of online processors
	MemoryTotal  Size        `json:"memory_total"`    // memory of the host
	MemoryFree   Size        `json:"memory_free"`     // memory that is available without swapping
	Load1        float64     `json:"load_1"`          // load average over 1 minute, as in proc_loadavg(5)
	Load10       float64     `json:"load_10"`         // load average over 10 minutes
	Load15       float64     `json:"load_15"`         // load average over 15 minutes
	Backends     []string    `json:"backends"`        // kinds of storage that the agent can run here
	Swarm        string      `json:"swarm,omitempty"` // ID of the engine in its Swarm
	Pools        []PoolFacts `json:"pools"`           // facts of each pool of the node
}

// PoolFacts are the facts about one pool of a host.
type PoolFacts struct {
	ID      uuid.UUID `json:"id"`      // UUID of the pool
	Name    string    `json:"name"`    // name of the pool
	Backend string    `json:"backend"` // backend of the pool
	Online  bool      `json:"online"`  // the pool can be used now
	Size    Size      `json:"size"`    // size of the pool
	Free    Size      `json:"free"`    // free space of the pool
}

// Pool returns the facts about a pool.
func (f Facts) Pool(id uuid.UUID) (PoolFacts, bool) {
	i := slices.IndexFunc(f.Pools, func(p PoolFacts) bool { return p.ID == id })
	if i < 0 {
		return PoolFacts{}, false
	}
	return f.Pools[i], true
}

// Differ reports whether facts differ so much from the recorded ones that they must be written: a text differs, or a
// number differs by 10 % or more from the recorded one.
//
// An idle host must not cause writes, so small differences do not count. A load must differ by at least a tenth of the
// number of CPUs, and free memory or free space by at least a hundredth of the total.
func (f Facts) Differ(is Facts) bool {
	if !f.sameStaticFacts(is) || !slices.Equal(f.Backends, is.Backends) || len(f.Pools) != len(is.Pools) {
		return true
	}
	for i, p := range f.Pools {
		q := is.Pools[i]
		if p.ID != q.ID || p.Name != q.Name || p.Backend != q.Backend || p.Online != q.Online ||
			deviates(float64(p.Size), float64(q.Size), 0) ||
			deviates(float64(p.Free), float64(q.Free), float64(p.Size)/100) {
			return true
		}
	}
	least := float64(f.CPUs) / 10
	return deviates(f.Load1, is.Load1, least) || deviates(f.Load10, is.Load10, least) ||
		deviates(f.Load15, is.Load15, least) ||
		deviates(float64(f.MemoryTotal), float64(is.MemoryTotal), 0) ||
		deviates(float64(f.MemoryFree), float64(is.MemoryFree), float64(f.MemoryTotal)/100)
}

// sameStaticFacts reports whether all texts are equal, and all numbers that never change by themselves.
func (f Facts) sameStaticFacts(is Facts) bool {
	return f.Node == is.Node && f.Architecture == is.Architecture && f.Kernel == is.Kernel && f.OS == is.OS &&
		f.OSVersion == is.OSVersion &&
		f.Engine == is.Engine && f.Virtual == is.Virtual && f.CPUs == is.CPUs && f.Swarm == is.Swarm
}

// deviates reports whether a number differs from its previous value by 10 % or more, and by at least least.
func deviates(was, is, least float64) bool {
	by := math.Abs(is - was)
	return by > 0 && by >= math.Abs(was)/10 && by >= least
}
