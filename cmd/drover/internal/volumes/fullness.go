package volumes

import (
	"fmt"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The percentages of the size of a volume or pool from which on it is nearly full, and full.
const (
	nearlyFull = 85
	full       = 97
)

// The words for a volume or pool with little space left.
const (
	NearlyFull = "NEARLY FULL"
	Full       = "FULL"
)

// Fullness returns Full, NearlyFull, or "" if there is enough space, for a percentage of use.
func Fullness(percent int) string {
	switch {
	case percent >= full:
		return Full
	case percent >= nearlyFull:
		return NearlyFull
	}
	return ""
}

// Percent returns how many percent of a size are used, rounded down.
func Percent(used, size dataset.Size) int { return int(100 * float64(used) / float64(size)) }

// PercentUsed returns how many percent of the size of a volume its data uses. ok is false if the volume has no size, or
// if its use is not known.
func PercentUsed(v api.Volume) (percent int, ok bool) {
	if v.Status == nil || v.Size == 0 || v.Status.Used == 0 {
		return 0, false
	}
	return Percent(max(0, v.Status.Used-overheadIfUnmounted(v)), v.Size), true
}

// FullnessOf returns the Fullness of a volume, and the command that grows it.
func FullnessOf(v api.Volume) (word, grow string) {
	percent, ok := PercentUsed(v)
	if !ok || Fullness(percent) == "" {
		return "", ""
	}
	return Fullness(percent), fmt.Sprintf("drover volume resize %s %s", v.Volume, suggestLarger(v.Size))
}
