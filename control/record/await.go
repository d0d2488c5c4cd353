package record

import (
	"context"
	"time"
)

// Await waits until signal is closed or timeout fires, and reports whether signal was closed first. It fails with
// dataset.ErrUnavailable when quit is closed, because the service is stopping, and with the error of ctx when ctx ends.
func Await(ctx context.Context, quit, signal <-chan struct{}, timeout <-chan time.Time) (signaled bool, err error) {
	select {
	case <-signal:
		return true, nil
	case <-timeout:
		return false, nil
	case <-quit:
		return false, Stopping()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
