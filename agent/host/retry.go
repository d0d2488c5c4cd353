package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/dataset"
)

// LongPoll is how long one request that waits for a change stays open.
const LongPoll = 25 * time.Second

// UntilAnswered repeats a request to control until control answers it.
func UntilAnswered[T any](ctx context.Context, h *Host, ask func() (T, error)) (T, error) {
	for {
		out, err := ask()
		if !errors.Is(err, dataset.ErrUnavailable) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-h.Clock.After(h.Timing.Retry):
		}
	}
}

// InDoubt reports whether control may have executed a request that failed with err. For example, if the disk of a store
// is full, the flush of a commit fails, but the store may find the commit on its disk after a restart.
func InDoubt(err error) bool {
	return errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, dataset.ErrNoSpace) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, dataset.ErrInternal) || dataset.KindOf(err) == dataset.ErrInternal
}
