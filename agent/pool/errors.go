package pool

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// WithPoolName adds the name of the pool to an error. Errors of backends may have it already.
func WithPoolName(name string, err error) error {
	if WithoutPoolName(name, err) != err.Error() {
		return err
	}
	return fmt.Errorf("pool %s: %w", name, err)
}

// WithoutPoolName returns the text of an error without the pool's name at its beginning, for callers that name the pool
// themselves.
func WithoutPoolName(name string, err error) string {
	return strings.TrimPrefix(err.Error(), "pool "+name+": ")
}

// OfflineError is the error for work on a pool that is offline.
func OfflineError(name, why string) error {
	if strings.HasPrefix(why, "pool "+name+" is offline: ") {
		return dataset.Errorf(dataset.ErrOffline, "%s", why)
	}
	return dataset.Errorf(dataset.ErrOffline, "pool %s is offline: %s", name, why)
}

func unknownPool(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s is not one of this node's (drover pool ls)", id)
}

// NoAnswerReason returns the reason that is shown for a pool that has not answered since a moment.
func NoAnswerReason(since time.Time) string {
	return fmt.Sprintf("does not respond, since %s: its disk hangs (check it: dmesg; the pool is used again when "+
		"it responds)", since.UTC().Format(time.RFC3339))
}
