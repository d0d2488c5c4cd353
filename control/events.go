package control

import (
	"context"

	"github.com/droverhq/drover/control/api"
)

// Events calls fn for each event after the given ID: first for those that are kept and, with follow, for those to
// come, until ctx ends, fn returns an error, or the service closes.
func (s *Service) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	for {
		list, wait := s.events.After(after)
		for _, ev := range list {
			if err := fn(ev); err != nil {
				return err
			}
			after = ev.ID
		}
		switch {
		case !follow:
			return nil
		case len(list) > 0:
			continue
		}
		select {
		case <-wait:
		case <-s.quit:
			return ctx.Err() // ctx may have ended as well
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
