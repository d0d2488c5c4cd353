package dataset

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// KeySource says where the key is that the operator has for the datasets of a profile: in a
// file of each host, or what a program says. The zero value: they are not encrypted.
type KeySource struct {
	KeyFile string `json:"key_file,omitempty"` // absolute
	// Exec is a program by its absolute path and its arguments, which prints the key, and
	// Timeout what one run of it has.
	Exec    []string `json:"exec,omitempty"`
	Timeout Duration `json:"timeout,omitempty"` // how long one run of the program may take
}

const (
	// DefaultKeyTimeout is what a key program has of which the profile does not say it.
	DefaultKeyTimeout = Duration(10 * time.Second)
	// MaxKeyTimeout bounds what it may have: a mount that waits for it has two minutes.
	MaxKeyTimeout = Duration(time.Minute)
)

// Wanted reports whether datasets are to be encrypted.
func (k KeySource) Wanted() bool { return k.KeyFile != "" || len(k.Exec) > 0 }

// Equal reports whether two are the same place.
func (k KeySource) Equal(o KeySource) bool {
	return k.KeyFile == o.KeyFile && k.Timeout == o.Timeout && slices.Equal(k.Exec, o.Exec)
}

// String names the place.
func (k KeySource) String() string {
	if k.KeyFile != "" {
		return k.KeyFile
	}
	return strings.Join(k.Exec, " ")
}

// Encryption is the data key of an encrypted dataset, as nobody can read it without the key of
// the operator that it is wrapped by. It goes wherever the record goes.
type Encryption struct {
	// ID is the data key's own, and the UUID of the container that it opens: snapshots,
	// clones and copies have the container's, and the same data key.
	ID      uuid.UUID `json:"id"`
	KeyID   string    `json:"key_id"`  // 8 hex digits that tell keys of the operator apart
	Wrapped []byte    `json:"wrapped"` // the data key, encrypted with the key of the operator
}
