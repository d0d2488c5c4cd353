package ledger

import (
	"context"
	"time"
)

// Await reports whether a bell rang before the timeout. dataset.ErrUnavailable if the service stops: quit is closed.
func Await(ctx context.Context, quit, rung <-chan struct{}, timeout <-chan time.Time) (rang bool, err error) {
	select {
	case <-rung:
		return true, nil
	case <-timeout:
		return false, nil
	case <-quit:
		return false, Stopping()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
