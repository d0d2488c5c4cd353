package cli

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/droverhq/drover/dataset"
)

// AccessLine says how many hosts may mount a volume. It returns "" if only one may.
func AccessLine(a dataset.Access) string {
	if a != dataset.AccessMany {
		return ""
	}
	return "many hosts at once"
}

// LabelLines returns labels as KEY=VALUE, sorted.
func LabelLines(labels map[string]string) []string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		lines = append(lines, k+"="+labels[k])
	}
	return lines
}

// YesNo returns "yes" or "no".
func YesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// OnDelete describes what happens to the data of a volume when the volume is deleted.
func OnDelete(o dataset.OnDelete) string {
	switch o.Mode {
	case dataset.DeletePurge:
		return "destroyed at once"
	case dataset.DeleteKeep:
		return "in the trash until it is purged"
	case dataset.DeleteTrash:
		return "in the trash for " + strings.ToLower(units.HumanDuration(time.Duration(o.Trash)))
	}
	return string(o.Mode)
}

// ExactSize formats a size as SizeOr does. It adds the number of bytes if the text is rounded. A size of 0 is "no
// limit".
func ExactSize(s dataset.Size) string {
	words := SizeOr(s, "no limit")
	if s == 0 || words == s.String() {
		return words
	}
	return fmt.Sprintf("%s (%d bytes)", words, int64(s))
}

// SizeOr formats a size. It returns fallback if the size is 0.
func SizeOr(s dataset.Size, fallback string) string {
	if s == 0 {
		return fallback
	}
	return s.Readable()
}

// Limit returns a size for a comparison in which 0, which is no limit, is larger than all others.
func Limit(s dataset.Size) dataset.Size {
	if s == 0 {
		return math.MaxInt64
	}
	return s
}

// ShortName shortens the generated name of an anonymous Docker volume, which would take most of the width of a table.
// The dataset in the same row identifies the volume.
func ShortName(volume string) string {
	if (dataset.Spec{Name: volume}).Anonymous() {
		return volume[:anonymousShown] + "…"
	}
	return volume
}

// anonymousShown is the number of characters of such a name that are shown, as many as Docker shows of other IDs.
const anonymousShown = 12
