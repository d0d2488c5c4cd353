package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/profiles"
)

const (
	// lookEvery is the time between two looks at the file.
	lookEvery = 5 * time.Second
	// changeSettles is how long a changed file is not reported: a user who changes it reloads it next.
	changeSettles = 10 * time.Second
)

// profilesFile is profiles.yaml as it was last loaded. It also looks at the file from time to time, because a file that
// cannot be loaded prevents the next start. A change applies only after a reload. Its methods are safe for concurrent
// use.
type profilesFile struct {
	path    string
	clock   clock.Clock
	log     *logrus.Logger
	reread  chan struct{} // receives after set changed
	set     atomic.Pointer[profiles.Set]
	problem atomic.Pointer[api.Finding] // what is wrong with the file; nil if it is the loaded one

	mu   sync.Mutex // held while the file is read
	last fileStamp  // of the file when it was last read
	err  error      // why it could not be loaded then
	// reloadFailed is true if a user requested the load that failed with err.
	reloadFailed bool
	differs      bool          // it has other profiles than set, or cannot be loaded
	since        time.Duration // since when differs is true, by the steady clock
}

// fileStamp identifies a version of a file. It is the zero value if the file cannot be examined.
type fileStamp struct {
	device, inode     uint64
	size              int64
	modified, changed unix.Timespec
}

func stampOf(path string) fileStamp {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return fileStamp{}
	}
	return fileStamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
}

// loadProfilesFile loads a file of profiles for the first time.
func loadProfilesFile(path string, clk clock.Clock, log *logrus.Logger) (*profilesFile, error) {
	p := &profilesFile{path: path, clock: clk, log: log, reread: make(chan struct{}, 1)}
	p.last = stampOf(path) // before it is read: a change after that is noticed
	set, err := settings.LoadProfiles(path)
	p.set.Store(set)
	return p, err
}

// reload reads the file again and notifies reread. If the file has a mistake, the old profiles stay.
func (p *profilesFile) reload() {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.read()
	if p.err != nil {
		p.log.WithError(p.err).Error("reload failed; keeping previous profiles")
		p.reloadFailed = true
		p.problem.Store(p.describe())
		return
	}
	p.set.Store(set)
	p.differs = false
	p.problem.Store(nil)
	p.log.WithField("profiles", set.Names()).Info("reloaded the profiles")
	select {
	case p.reread <- struct{}{}:
	default: // a previous notification is still waiting
	}
}

// watch looks at the file every lookEvery until ctx ends. The returned function stops that, and waits for a running
// look.
func (p *profilesFile) watch(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		for {
			select {
			case <-p.clock.After(lookEvery):
				p.look()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// look reads the file if it has changed since the last look, or could not be loaded then, and records what is wrong
// with it. It logs a file that can no longer be loaded once.
func (p *profilesFile) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || stampOf(p.path) != p.last {
		before := p.err
		if p.read(); p.err != nil && before == nil {
			p.log.WithError(p.err).Error("profiles cannot be loaded any more; keeping previous ones")
		}
	}
	p.problem.Store(p.describe())
}

// read reads the file, and compares it with the loaded profiles. mu is held.
func (p *profilesFile) read() (set *profiles.Set) {
	p.last = stampOf(p.path)
	set, p.err = settings.LoadProfiles(p.path)
	differed := p.differs
	loaded := p.set.Load()
	p.differs = p.err != nil || set.Default() != loaded.Default() || !reflect.DeepEqual(set.All(), loaded.All())
	if p.differs && !differed {
		p.since = p.clock.Steady()
	}
	p.reloadFailed = p.reloadFailed && p.err != nil
	return set
}

// describe returns the finding about the file as it was last read, or nil. mu is held.
func (p *profilesFile) describe() *api.Finding {
	f := &api.Finding{Level: "error", Subject: "profiles"}
	switch {
	case p.reloadFailed:
		f.Text = fmt.Sprintf("reload failed; keeping previous profiles: %v", p.err)
	case errors.Is(p.err, os.ErrNotExist):
		f.Text = fmt.Sprintf("the file was removed, so the next start will fail; the loaded profiles apply: %v", p.err)
		f.Fix = "restore " + p.path
		return f
	case p.err != nil:
		f.Text = fmt.Sprintf("the file cannot be loaded any more, so the next start will fail; the loaded profiles "+
			"apply: %v", p.err)
	case !p.differs, p.last != fileStamp{} && p.clock.Steady()-p.since < changeSettles:
		return nil
	case p.last == fileStamp{}: // without the file in its default place, the built-in profiles are loaded
		f.Level = "warning"
		f.Text = p.path + " was removed: the next start will use the built-in profiles"
		f.Fix = "restore it, or load the built-in profiles now: systemctl reload drover"
		return f
	default:
		f.Level = "warning"
		f.Text = p.path + " has changed since it was loaded: the change does not apply yet"
		f.Fix = "systemctl reload drover (on a control host: drover-control)"
		return f
	}
	f.Fix = "drover config check " + p.path + ", then reload it (SIGHUP)"
	return f
}

// findings returns what is wrong with the file.
func (p *profilesFile) findings() []api.Finding {
	if f := p.problem.Load(); f != nil {
		return []api.Finding{*f}
	}
	return nil
}
