package servers

import (
	"fmt"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/profiles"
)

// profilesFile is profiles.yaml as it was last read. Its methods are safe for concurrent use.
type profilesFile struct {
	path    string
	set     atomic.Pointer[profiles.Set]
	problem atomic.Pointer[api.Finding] // why the last reload failed; nil if it succeeded
	reread  chan struct{}               // receives after set changed
	log     *logrus.Logger
}

// reload reads the file again and notifies reread. If the file has a mistake, the old profiles stay.
func (p *profilesFile) reload() {
	set, err := settings.LoadProfiles(p.path)
	if err != nil {
		p.log.WithError(err).Error("reload failed; keeping previous profiles")
		p.problem.Store(&api.Finding{
			Level: "error", Subject: "profiles", Fix: "drover profile check " + p.path + ", then reload it (SIGHUP)",
			Text: fmt.Sprintf("reload failed; keeping previous profiles: %v", err),
		})
		return
	}
	p.set.Store(set)
	p.problem.Store(nil)
	p.log.WithField("profiles", set.Names()).Info("reloaded the profiles")
	select {
	case p.reread <- struct{}{}:
	default: // a previous notification is still waiting
	}
}

// findings returns why the last reload failed.
func (p *profilesFile) findings() []api.Finding {
	if f := p.problem.Load(); f != nil {
		return []api.Finding{*f}
	}
	return nil
}
