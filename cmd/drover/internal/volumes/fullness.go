package volumes

import (
	"strconv"

	"github.com/droverhq/drover/dataset"
)

// UsedSize returns how much space a volume uses: in its filesystem as df shows it, if that is known, otherwise in its
// pool. It returns "" if its node has not reported it. st is the status of the volume; nil if it is not reported.
func UsedSize(st *dataset.DatasetStatus) string {
	switch {
	case st == nil:
		return ""
	case st.Usage != nil:
		return st.Usage.Used.Human()
	}
	return st.Used.Human()
}

// PercentUsed returns how many percent of a volume are used, as df shows them. It returns "" if that is not known, or
// if the volume has no limit. st is the status of the volume; nil if it is not reported.
func PercentUsed(st *dataset.DatasetStatus) string {
	if st == nil || st.Usage == nil {
		return ""
	}
	return strconv.Itoa(st.Usage.Percent()) + "%"
}

// Fullness returns the state of a volume of a size, with a text such as "FULL: 98% of 20GiB used". The text is "" if
// the volume has enough space. st is the status of the volume; nil if it is not reported.
func Fullness(st *dataset.DatasetStatus, size dataset.Size) (is dataset.Fullness, text string) {
	if st == nil || st.Usage == nil || st.Fullness == dataset.NotFull {
		return dataset.NotFull, ""
	}
	return st.Fullness, st.Fullness.String() + ": " + st.Usage.Describe(size)
}
