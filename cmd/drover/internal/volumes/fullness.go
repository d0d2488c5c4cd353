package volumes

import (
	"strconv"

	"github.com/droverhq/drover/dataset"
)

// UsedSize returns how much space a volume uses: in its filesystem as df shows it, if that is known, otherwise in its
// pool. It returns "" if its node has not reported it. st is the status of the volume; nil if it is not reported. The
// result is at most the size of the volume, if it has one: a pool also counts the blocks of its metadata, so a full
// volume can occupy a bit more than its size there.
func UsedSize(st *dataset.DatasetStatus, size dataset.Size) string {
	if st == nil {
		return ""
	}
	used := st.Used
	if st.Usage != nil {
		used = st.Usage.Used
	}
	if size > 0 {
		used = min(used, size)
	}
	return used.Human()
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
