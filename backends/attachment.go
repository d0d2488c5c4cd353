package backends

// AttachOptions say how a dataset will be mounted.
type AttachOptions struct {
	ReadOnly bool
	Mount    []string // filesystem options of the profile
}

// Attachment is a dataset that is ready to be mounted.
type Attachment struct {
	Mount Mount
	// Release releases what kept the source alive until it was mounted; after that, the mount keeps it
	// alive. The caller must call Release exactly once, even if it mounted nothing: then the source
	// goes away.
	Release func() error
}

// Mount describes a mount. The agent makes it.
type Mount struct {
	Source  string   // device, or directory for a bind mount
	FSType  string   // "bind" for a directory
	Options []string // for the filesystem, such as nouuid
	Flags   MountFlags
	Grow    bool // the filesystem may be smaller than its device: call Resizer.Grow once it is mounted
}

// MountFlags are the flags of a mount.
type MountFlags struct {
	ReadOnly, NoDev bool
}
