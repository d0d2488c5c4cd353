package cli

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// ParseTime parses the value of a flag that is a moment: how long ago, or a time in the zone of now.
func ParseTime(now time.Time, flag, s string) (time.Time, error) {
	if ago, err := dataset.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	layouts := []string{time.RFC3339Nano, time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateOnly}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, dataset.Errorf(dataset.ErrInvalid,
		"--%s %q: expected how long ago, such as 30m or 2d, or a time, such as 2026-03-01 or 2026-03-01 12:00:00",
		flag, dataset.Clip(s))
}
