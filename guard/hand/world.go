package hand

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/mount"
)

// world is which process could write where, at one moment.
type world struct {
	own   mount.Mounts // of the host: this process's namespace
	procs []process
	// unread counts processes that did not let themselves be looked at in time.
	unread int
}

// process is what was seen of one.
type process struct {
	Process
	// views are the mount tables that it sees and the host does not: one for each
	// namespace that one of its threads is in.
	views []mount.Mounts
	// opens are what it holds in any other way: open files that it can write to, open
	// directories, its working and root directory, shared writable mappings.
	opens []open
}

// open is a file or directory that a process holds, by its place in its filesystem.
type open struct {
	major, minor int
	path         string
	through      *mountinfo.Info // the mount that it is seen through
}

// holders returns who can write to a dataset.
func (w *world) holders(target Target) []Process {
	fsys := w.filesystem(target)
	var found []Process
	for _, p := range w.procs {
		if fsys.ok && w.holds(p, target, fsys.Filesystem) {
			found = append(found, p.Process)
		}
	}
	return found
}

// filesystem is where a dataset's bytes are now.
type filesystem struct {
	mount.Filesystem
	ok bool
	// entry is the host's mount of it, nil when there is none.
	entry *mount.Entry
}

// filesystem finds the dataset's filesystem on the host's paths; when nothing is mounted
// there, it is the one that Bind saw: containers may hold on to it. Device numbers are
// used again: one that the host has mounted in another place is another dataset's now.
func (w *world) filesystem(target Target) filesystem {
	for _, path := range target.Paths {
		if e := w.own.At(path); e != nil {
			return filesystem{mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root}, true, e}
		}
	}
	was := target.Filesystem
	if was.Root == "" || target.Own && len(w.own.Of(was.Major, was.Minor)) > 0 {
		return filesystem{}
	}
	return filesystem{was, true, nil}
}

// holds tells whether a process can write to the dataset that lies in fsys. What it has of a
// share and nobody can tell may be of any part of that, and counts: who is killed for it is
// better off than two writers.
func (w *world) holds(p process, target Target, fsys mount.Filesystem) bool {
	for _, view := range p.views {
		for _, e := range view.Of(fsys.Major, fsys.Minor) {
			root := strings.TrimSuffix(e.Root, "//deleted")
			if (within(root, fsys.Root) || w.untold(e)) && !readOnly(e) && !copied(e.Mountpoint, target.Paths) {
				return true
			}
		}
	}
	return slices.ContainsFunc(p.opens, func(o open) bool {
		return o.major == fsys.Major && o.minor == fsys.Minor && (within(o.path, fsys.Root) || w.untold(o.through))
	})
}

// untold tells whether a mount may be of any part of a share. A copy of the host's own, in a
// service's namespace, holds no more than that does.
func (w *world) untold(e *mount.Entry) bool {
	if e == nil || !w.own.Unsure(e) {
		return false
	}
	same := w.own.Of(e.Major, e.Minor)
	return slices.Contains(same, e) || !slices.ContainsFunc(same, func(own *mount.Entry) bool {
		return own.Root == e.Root && strings.HasSuffix(e.Mountpoint, own.Mountpoint)
	})
}

// copied tells a mount that is a copy of the host's own: every service with a mount
// namespace of its own has got one, and a container that looks at the whole host has it
// below a folder. Who is in there holds what it has opened, as all the host's processes.
func copied(point string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return strings.HasSuffix(point, p) })
}

func readOnly(e *mount.Entry) bool {
	return slices.Contains(strings.Split(e.Options, ","), "ro")
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// place finds where in its filesystem a path lies that is seen through a mount.
func place(e *mountinfo.Info, path string) open {
	path = strings.TrimSuffix(path, " (deleted)")
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(e.Mountpoint, "/"))
	if !ok {
		rest = path // the mount was moved or taken off meanwhile
	}
	return open{e.Major, e.Minor, filepath.Join(e.Root, rest), e}
}

// worlds shares one look at all processes between all who want one at the same time: a
// hundred datasets that are fenced at once cost two or three looks, not hundreds.
type worlds struct {
	mu            sync.Mutex
	running, next *look
}

// look is one look at the world, under way or waited for.
type look struct {
	done  chan struct{}
	world *world
	err   error
}

// see returns the world as it is after see was called.
func (ws *worlds) see(ctx context.Context, c clock.Clock, take func() (*world, error)) (*world, error) {
	ws.mu.Lock()
	l := ws.next
	if l == nil {
		l = &look{done: make(chan struct{})}
		ws.next = l
		if ws.running == nil {
			go ws.run(c, take) // ends with the last look that somebody waits for
		}
	}
	ws.mu.Unlock()
	select {
	case <-l.done:
		return l.world, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rest bounds the pause between two looks.
const rest = 100 * time.Millisecond

// run looks for as long as somebody waits. Between two looks it rests as long as one took:
// those that are to be stopped need the processor too, to come to their end.
func (ws *worlds) run(c clock.Clock, take func() (*world, error)) {
	for {
		ws.mu.Lock()
		ws.running, ws.next = ws.next, nil
		l := ws.running
		ws.mu.Unlock()
		if l == nil {
			return
		}
		began := c.Steady()
		l.world, l.err = take()
		close(l.done)
		<-c.After(min(c.Steady()-began, rest))
	}
}
