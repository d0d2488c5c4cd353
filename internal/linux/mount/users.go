package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// youngAge is the age up to which a process may still become a container. A runtime first starts its process. Only
// after that, it creates the mounts of the container and moves to its control group.
const youngAge = 10 * time.Second

// Users tracks which processes have filesystems of block devices mounted in other mount namespaces. An Update is cheap:
// it reads the list of processes, and the mounts of only those processes that are new since the previous Update. The
// zero value has seen nothing. Not safe for concurrent use.
type Users struct {
	own      uint64
	procs    map[int]*userProcess
	mountsIn map[uint64][]*Entry // by mount namespace
}

type userProcess struct {
	ns    uint64
	since time.Duration // when the process was first seen
	old   bool          // its mounts were read when it was no longer young
}

// Update updates the state. now is the time of a steady clock. If full is set, it reads the mounts of all processes
// again, because old processes can also mount filesystems and enter other namespaces.
func (u *Users) Update(now time.Duration, full bool) error {
	if u.procs == nil {
		own, err := namespaceOf("/proc/thread-self")
		if err != nil {
			return fmt.Errorf("find users: %w", err)
		}
		u.own, u.procs, full = own, map[int]*userProcess{}, true
	}
	if full {
		u.mountsIn = map[uint64][]*Entry{}
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return fmt.Errorf("find users: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("find users: %w", err)
	}
	before := u.procs
	u.procs = make(map[int]*userProcess, len(before))
	views := map[view]bool{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p := before[pid]
		if p == nil {
			p = &userProcess{since: now}
		}
		if !p.old || full {
			p.old = now-p.since >= youngAge
			u.readProcess(pid, p, views)
		}
		u.procs[pid] = p
	}
	u.forget()
	return nil
}

// readProcess reads the mounts of one process. views are the views that this look has already read.
func (u *Users) readProcess(pid int, p *userProcess, views map[view]bool) {
	at := "/proc/" + strconv.Itoa(pid)
	ns, err := namespaceOf(at)
	// An error means that the process has ended, is a zombie, or has capabilities that this process lacks.
	if err != nil || ns == u.own {
		p.ns = u.own
		return
	}
	p.ns = ns
	root, _ := rootID(at)
	seen := view{ns: ns, root: root}
	if views[seen] {
		return
	}
	table, err := tableBefore(at, clock.System{}.Steady()+tableTimeout)
	if err != nil {
		return // it has ended, or has a table that takes long
	}
	first := true
	for v := range views {
		first = first && v.ns != ns
	}
	views[seen] = true
	if first {
		u.mountsIn[ns] = nil
	}
	for _, e := range table {
		if e.Major != 0 { // major 0 means that there is no block device
			u.mountsIn[ns] = append(u.mountsIn[ns], e)
		}
	}
}

// forget removes the namespaces that have no process any more.
func (u *Users) forget() {
	alive := make(map[uint64]bool, len(u.mountsIn))
	for _, p := range u.procs {
		alive[p.ns] = true
	}
	for ns := range u.mountsIn {
		if !alive[ns] {
			delete(u.mountsIn, ns)
		}
	}
}

// Of returns the processes in whose mount namespaces the filesystem with a device number is mounted in another place
// than ownTarget. A namespace can have the mounts of the host below a folder. So a mount point that ends with ownTarget
// counts as ownTarget.
func (u *Users) Of(major, minor int, ownTarget string) []int {
	uses := map[uint64]bool{}
	for ns, mounts := range u.mountsIn {
		for _, e := range mounts {
			if e.Major == major && e.Minor == minor && !strings.HasSuffix(e.Mountpoint, ownTarget) {
				uses[ns] = true
			}
		}
	}
	var pids []int
	if len(uses) > 0 {
		for pid, p := range u.procs {
			if uses[p.ns] {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
