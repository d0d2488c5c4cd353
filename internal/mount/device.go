package mount

// DeviceHolder returns a process of another mount namespace that has the filesystem on a block device
// mounted or, when none is seen, one that could not be examined. It returns nil when there is neither.
func DeviceHolder(major, minor int) (*Holder, error) {
	others, err := Elsewhere()
	if err != nil {
		return nil, err
	}
	var found *Holder
	for _, h := range others.Holders(Filesystem{Major: major, Minor: minor, Root: "/"}, "") {
		if found == nil || found.Unexamined != nil {
			found = &h
		}
	}
	return found, nil
}
