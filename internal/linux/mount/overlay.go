package mount

import "strings"

// UpperDir returns the upper directory of an overlay mount: the kernel stores the writes to the overlay in this
// directory. The path is as the program that mounted the overlay gave it, so it is valid in the mount namespace of that
// program. ok is false if e is not an overlay, if it is read-only, or if the path is relative.
func UpperDir(e *Entry) (path string, ok bool) {
	if e.FSType != "overlay" {
		return "", false
	}
	for option := range strings.SplitSeq(e.VFSOptions, ",") {
		if path, ok = strings.CutPrefix(option, "upperdir="); ok {
			path = unescape(path) // a comma in the path is escaped as well
			return path, strings.HasPrefix(path, "/")
		}
	}
	return "", false
}
