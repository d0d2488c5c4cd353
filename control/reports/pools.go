package reports

import (
	"cmp"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Pool returns the state of a pool; nil if it was not reported.
func (s *Latest) Pool(id uuid.UUID) *dataset.PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.pools[id]; ok {
		return &r.PoolStatus
	}
	return nil
}

// FailedPools returns the configured pools that nodes could neither open nor create.
func (s *Latest) FailedPools() (all []api.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.nodes {
		all = append(all, r.failedPools...)
	}
	slices.SortFunc(all, func(x, y api.Pool) int {
		return cmp.Or(cmp.Compare(x.NodeName, y.NodeName), cmp.Compare(x.Name, y.Name))
	})
	return all
}

// WhyPoolUnusable returns why no volume can continue from the data in a pool, according to the last report of its
// node. It returns "" if a volume can, or if the node has not reported.
func (s *Latest) WhyPoolUnusable(pool uuid.UUID) string {
	switch st := s.Pool(pool); {
	case st == nil || st.Online:
		return ""
	case st.Quarantined:
		return "has its copy in a pool that is held: " + st.Reason
	default:
		return "has its copy in a pool that is offline: " + st.Reason
	}
}

// WhyQuarantined returns why a pool is quarantined, according to the last report of its node. It returns "" if the
// pool is not quarantined. The records of a quarantined pool may not agree with its content.
func (s *Latest) WhyQuarantined(pool uuid.UUID) string {
	if st := s.Pool(pool); st != nil && st.Quarantined {
		return st.Reason
	}
	return ""
}

// poolEvent returns the event to publish if a pool became nearly full, went offline, is online again or was
// quarantined. full is how full it was, with a margin, so that a pool whose use varies around a threshold causes one
// event. publish is false if nothing must be published. poolEvent is a pure function.
func poolEvent(was, is dataset.PoolStatus, full dataset.Fullness) (ev api.Event, publish bool) {
	known := was.ID != uuid.Nil
	switch {
	case is.Quarantined && !was.Quarantined:
		ev.Type, ev.Detail = api.EventPoolHeld, is.Reason
	case !is.Online && (was.Online || !known):
		ev.Type, ev.Detail = api.EventPoolOffline, is.Reason
	case known && !was.Online && is.Online:
		ev.Type, ev.Detail = api.EventPoolOnline, is.Reason
	case is.Online && full == dataset.NotFull && is.FullnessAfter(full) != dataset.NotFull:
		ev.Type, ev.Detail = api.EventPoolFull, is.Free.Human()+" free of "+is.Size.Human()
	default:
		return ev, false
	}
	ev.Labels = map[string]string{"pool": is.ID.String()}
	return ev, true
}
