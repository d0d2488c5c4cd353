package api

import (
	"regexp"
	"strconv"

	"github.com/droverhq/drover/dataset"
)

var releaseForm = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(?:[.+-].*)?$`)

// release returns the major and minor number of a version. ok is false if the version is not a release, such as
// "dev" or a commit.
func release(version string) (major, minor int, ok bool) {
	m := releaseForm.FindStringSubmatch(version)
	if m == nil {
		return 0, 0, false
	}
	major, _ = strconv.Atoi(m[1]) // only a few digits, so it cannot fail
	minor, _ = strconv.Atoi(m[2])
	return major, minor, true
}

// Compatible returns ErrForbidden unless control and another program can work together. who names the other program in
// the error. Two programs can work together if their minor versions are equal or neighbours. This program cannot know
// which minor version of a major version is the last one. So version 2.0 counts as the neighbour of every 1.x. A
// version that is not a release works with every version.
func Compatible(control, version, who string) error {
	aMajor, aMinor, ok := release(control)
	bMajor, bMinor, ok2 := release(version)
	if !ok || !ok2 || aMajor == bMajor && abs(aMinor-bMinor) <= 1 ||
		bMajor == aMajor+1 && bMinor == 0 || aMajor == bMajor+1 && aMinor == 0 {
		return nil
	}
	older, newer := version, control
	first := who
	if bMajor > aMajor || bMajor == aMajor && bMinor > aMinor {
		older, newer, first = control, version, "control"
	}
	return dataset.Errorf(dataset.ErrForbidden,
		"%s is drover %s and control is %s: only neighbouring versions work together (upgrade %s first, from %s "+
			"to the same or the previous minor version as %s)",
		who, dataset.Clip(version), control, first, dataset.Clip(older), dataset.Clip(newer))
}

func abs(n int) int { return max(n, -n) }
