package volumes

import (
	"strconv"

	"github.com/droverhq/drover/dataset"
)

// usedSize returns how much space the files of a volume use, as df shows it in the volume, or "" if that is not known.
// st is the status of the volume; nil if it is not reported. The result is at most the size of the volume, if it has
// one: the filesystem is larger than that by its metadata.
func usedSize(st *dataset.DatasetStatus, size dataset.Size) string {
	if st == nil || st.Used == nil {
		return ""
	}
	used := *st.Used
	if size > 0 {
		used = min(used, size)
	}
	return used.Human()
}

// sizeInPool returns the space that a volume occupies in its pool, or "" if that is not known. st is the status of the
// volume; nil if it is not reported.
func sizeInPool(st *dataset.DatasetStatus) string {
	if st == nil || st.InPool == nil {
		return ""
	}
	return st.InPool.Human()
}

// percentUsed returns how many percent of a volume are used, as df shows them. It returns "" if that is not known, or
// if the volume has no limit. st is the status of the volume; nil if it is not reported.
func percentUsed(st *dataset.DatasetStatus) string {
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
