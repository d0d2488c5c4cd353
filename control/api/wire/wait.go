package wire

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// MaxWait is the longest time that one request may wait for something to happen.
const MaxWait = 10 * time.Minute

// ParseWait reads the parameter wait of a request. An empty value is 0. The error is ErrInvalid.
func ParseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > MaxWait {
		return 0, dataset.Errorf(dataset.ErrInvalid, "bad wait %q: want a duration of at most %s, such as 30s",
			dataset.Clip(s), MaxWait)
	}
	return d, nil
}

// FormatWait returns the parameter wait for a duration, at most MaxWait. It is empty if the duration is not positive.
func FormatWait(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return min(d, MaxWait).String()
}
