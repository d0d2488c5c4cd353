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

// Differ reports whether the current facts differ so much from f, the recorded facts, that they must be recorded again:
// a text differs, or a number differs by 10 % or more.
//
// An idle host must not cause writes, so small differences do not count. A load must differ by at least a tenth of the
// number of CPUs, and free memory or free space by at least a hundredth of the total.
func (f Facts) Differ(current Facts) bool {
	if !f.sameStaticFacts(current) || !slices.Equal(f.Backends, current.Backends) ||
		len(f.Pools) != len(current.Pools) {
		return true
	}
	for i, p := range f.Pools {
		q := current.Pools[i]
		if p.ID != q.ID || p.Name != q.Name || p.Backend != q.Backend || p.Online != q.Online ||
			deviates(float64(p.Size), float64(q.Size), 0) ||
			deviates(float64(p.Free), float64(q.Free), float64(p.Size)/100) {
			return true
		}
	}
	minChange := float64(f.CPUs) / 10
	return deviates(f.Load1, current.Load1, minChange) || deviates(f.Load10, current.Load10, minChange) ||
		deviates(f.Load15, current.Load15, minChange) ||
		deviates(float64(f.MemoryTotal), float64(current.MemoryTotal), 0) ||
		deviates(float64(f.MemoryFree), float64(current.MemoryFree), float64(f.MemoryTotal)/100)
}

// sameStaticFacts reports whether all texts are equal, and all numbers that change only when the host is changed.
func (f Facts) sameStaticFacts(current Facts) bool {
	return f.Node == current.Node && f.Architecture == current.Architecture && f.Kernel == current.Kernel &&
		f.OS == current.OS && f.OSVersion == current.OSVersion && f.Engine == current.Engine &&
		f.Virtual == current.Virtual && f.CPUs == current.CPUs && f.Swarm == current.Swarm
}

// deviates reports whether a number differs from the recorded one by 10 % or more, and by at least minChange.
func deviates(recorded, current, minChange float64) bool {
	change := math.Abs(current - recorded)
	return change > 0 && change >= math.Abs(recorded)/10 && change >= minChange
}
