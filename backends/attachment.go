package backends

import (
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// AttachOptions say how a dataset will be mounted.
type AttachOptions struct {
	ReadOnly bool
	Mount    []string // filesystem options of the profile
}

// Attachment is a dataset that is ready to be mounted.
type Attachment struct {
	Mount Mount
	// Release ends the reservation of the source. The caller mounts the source first, because a source that is not
	// mounted when Release is called can disappear. A mounted source exists until it is unmounted. The caller must call
	// Release exactly once, even if it mounted nothing.
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

// Attachments counts the attachments of datasets that were not released. The zero value is ready. Attachments is safe
// for concurrent use.
type Attachments struct {
	mu    sync.Mutex
	count map[uuid.UUID]int
}

// Add adds an attachment of a dataset. The returned function ends it.
func (a *Attachments) Add(id uuid.UUID) (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count == nil {
		a.count = map[uuid.UUID]int{}
	}
	a.count[id]++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.count[id]--; a.count[id] == 0 {
			delete(a.count, id)
		}
	})
}

// CheckNone fails with dataset.ErrInUse if the dataset has attachments.
func (a *Attachments) CheckNone(id uuid.UUID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count[id] > 0 {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is about to be mounted", id)
	}
	return nil
}
