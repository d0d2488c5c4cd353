package volumes

import (
	"fmt"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// UsedSize returns how much space a volume uses: in its filesystem as df shows it, if that is known, otherwise in its
// pool. It returns "" if its node has not reported it.
func UsedSize(v api.Volume) string {
	switch {
	case v.Status == nil:
		return ""
	case v.Status.Usage != nil:
		return v.Status.Usage.Used.Human()
	}
	return v.Status.Used.Human()
}

// PercentUsed returns how many percent of a volume are used, as df shows them. It returns "" if that is not known, or
// if the volume has no limit.
func PercentUsed(v api.Volume) string {
	if v.Status == nil || v.Status.Usage == nil {
		return ""
	}
	return fmt.Sprintf("%d%%", v.Status.Usage.Percent())
}

// Fullness returns the state of a volume, with a text such as "FULL: 98% of 20GiB used". The text is "" if the volume
// has enough space.
func Fullness(v api.Volume) (is dataset.Fullness, text string) {
	if v.Status == nil || v.Status.Usage == nil || v.Status.Fullness == dataset.NotFull {
		return dataset.NotFull, ""
	}
	is = v.Status.Fullness
	return is, is.String() + ": " + v.Status.Usage.Describe(v.Size)
}
