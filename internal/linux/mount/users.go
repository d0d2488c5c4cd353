package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// young is for how long a process may yet become a container's: a runtime mounts what that
// gets, and moves to its control group, after it has begun.
const young = 10 * time.Second

// Users follows who has filesystems of block devices mounted in other mount namespaces, at
// little cost: a look reads the list of processes, and of what they see only that of those
// that are new since. The zero value has seen nothing. Not for concurrent use.
type Users struct {
	own    uint64
	procs  map[int]*userProcess
	spaces map[uint64][]*Entry // by namespace
}

type userProcess struct {
	ns    uint64
	since time.Duration // when it was seen first
	old   bool          // it was looked at when it was young no more
}

// Look takes in what changed until now, by a steady clock; with full set it looks at all there
// is anew, as at what processes do that are not new: they can mount, and enter other namespaces.
func (u *Users) Look(now time.Duration, full bool) error {
	if u.procs == nil {
		own, err := namespaceOf("/proc/thread-self")
		if err != nil {
			return fmt.Errorf("find users: %w", err)
		}
		u.own, u.procs, full = own, map[int]*userProcess{}, true
	}
	if full {
		u.spaces = map[uint64][]*Entry{}
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
			p.old = now-p.since >= young
			u.look(pid, p, views)
		}
		u.procs[pid] = p
	}
	u.forget()
	return nil
}

// look looks at one process. views are those that were read in this look.
func (u *Users) look(pid int, p *userProcess, views map[view]bool) {
	at := "/proc/" + strconv.Itoa(pid)
	ns, err := namespaceOf(at)
	if err != nil || ns == u.own { // ended, a zombie, or it sees what we see
		p.ns = u.own
		return
	}
	p.ns = ns
	root, _ := rootID(at)
	seen := view{ns: ns, root: root}
	if views[seen] {
		return
	}
	table, err := TableOf(at)
	if err != nil {
		return // it has ended
	}
	first := true
	for v := range views {
		first = first && v.ns != ns
	}
	views[seen] = true
	if first {
		u.spaces[ns] = nil
	}
	for _, e := range table {
		if e.Major != 0 { // which has no block device
			u.spaces[ns] = append(u.spaces[ns], e)
		}
	}
}

// forget drops what was seen of namespaces that nobody is in any more.
func (u *Users) forget() {
	alive := make(map[uint64]bool, len(u.spaces))
	for _, p := range u.procs {
		alive[p.ns] = true
	}
	for ns := range u.spaces {
		if !alive[ns] {
			delete(u.spaces, ns)
		}
	}
}

// Of returns the processes in whose mount namespaces a filesystem with that device number is
// mounted in another place than ownTarget, or, where a namespace has the whole host's below
// a folder, than there.
func (u *Users) Of(major, minor int, ownTarget string) []int {
	uses := map[uint64]bool{}
	for ns, mounts := range u.spaces {
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
