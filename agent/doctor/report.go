package doctor

import (
	"fmt"
	"slices"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
)

// Report contains the findings of one examination. The zero value is empty. It is not safe for concurrent use.
type Report struct {
	condition.List
	StoreProblem string // why the store is inconsistent, or ""
	StoreRemedy  string // the command that brings it up to date
	Unknown      int    // the number of datasets in the pools that the inconsistent store lacks
	Background   bool   // leave out what takes long on a host with many datasets
	// ControlSilent is true if control did not answer this examination. The examination then sends control no other
	// request, because each request would wait until it times out.
	ControlSilent bool
	// Waited is how long the examination waited for the answers of other processes, which costs this host neither
	// processor nor disk time.
	Waited time.Duration
}

// sort puts errors first, then warnings, because they would be overlooked among the findings of many pools.
func (r *Report) sort() {
	place := func(f api.Finding) int {
		if i := slices.Index([]string{api.LevelError, api.LevelWarning}, f.Level); i >= 0 {
			return i
		}
		return 2
	}
	slices.SortStableFunc(r.List, func(x, y api.Finding) int { return place(x) - place(y) })
}

// putStoreProblemFirst puts an inconsistent store before everything else. The consequences of the inconsistency have
// no findings, because a rebuild of the store repairs all of them.
func (r *Report) putStoreProblemFirst() {
	if r.StoreProblem == "" {
		return
	}
	missing := ""
	if r.Unknown > 0 {
		missing = fmt.Sprintf("%d datasets in the pools are not in it; ", r.Unknown)
	}
	problem := r.StoreProblem + "; " + missing + "changes are suspended until it is rebuilt"
	r.List = slices.Insert(r.List, 0, condition.StoreHalted.Finding("store", r.StoreRemedy, problem))
}
