package dataset

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// KeySource says where the operator's key for the datasets of a profile is: in a file on each host, or in the output of
// a program. The zero value means that the datasets are not encrypted.
type KeySource struct {
	KeyFile string `json:"key_file,omitempty"` // absolute path of the file with the key
	// Exec is the absolute path of a program that prints the key, with its arguments.
	Exec    []string `json:"exec,omitempty"`
	Timeout Duration `json:"timeout,omitempty"` // how long one run of the program may take
}

const (
	// DefaultKeyTimeout is how long one run of a key program may take if the profile sets no timeout.
	DefaultKeyTimeout = Duration(10 * time.Second)
	// MaxKeyTimeout is the longest time that a profile may allow: a mount that waits for the program has two
	// minutes.
	MaxKeyTimeout = Duration(time.Minute)
)

// Wanted reports whether the key source names a key, so that the datasets must be encrypted.
func (k KeySource) Wanted() bool { return k.KeyFile != "" || len(k.Exec) > 0 }

// Equal reports whether two key sources are the same.
func (k KeySource) Equal(o KeySource) bool {
	return k.KeyFile == o.KeyFile && k.Timeout == o.Timeout && slices.Equal(k.Exec, o.Exec)
}

// String names the key source.
func (k KeySource) String() string {
	if k.KeyFile != "" {
		return k.KeyFile
	}
	return strings.Join(k.Exec, " ")
}

// Encryption is the wrapped data key of an encrypted dataset: the data key, encrypted with a key of the operator. The
// dataset cannot be read without the operator's key. It is a part of the dataset's record.
type Encryption struct {
	// ID is the UUID of the data key and of the LUKS container that it opens. Snapshots, clones and copies have
	// the container's ID, and the same data key.
	ID      uuid.UUID `json:"id"`
	KeyID   string    `json:"key_id"`  // 8 hexadecimal digits that distinguish keys of the operator
	Wrapped []byte    `json:"wrapped"` // the data key, encrypted with the operator's key
}
