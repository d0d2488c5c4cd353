// Package keys handles the keys of encrypted datasets. Each dataset has a random data key, which decrypts its data. The
// data key is stored in the dataset's record, wrapped by a key of the operator. So the operator's key can be replaced
// by wrapping the data keys again, without touching the data. The agent (agent/operation) calls the package to read
// keys, and to wrap and unwrap data keys. The command drover config check tests with it that a key can be read. Package
// restic reads the passwords of backup repositories with it. The package keeps no keys in memory: it reads an
// operator's key from its source each time. source.go decides where an operator's key is read from, and reads the
// secrets of repositories. keys.go wraps and unwraps data keys.
package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// The limits for the length of an operator's key, in bytes.
const (
	MinKey = 32
	MaxKey = 4 << 10
)

// dataKey is the length of a data key in bytes.
const dataKey = 64

// Key is a key of the operator. When it is printed, only its ID appears.
type Key struct {
	secret []byte
	from   string
}

// New returns a key. from describes its origin, for errors.
func New(secret []byte, from string) (Key, error) {
	if len(secret) < MinKey || len(secret) > MaxKey {
		return Key{}, dataset.Errorf(dataset.ErrForbidden, "%s has %d bytes: a key has %d to %d", from, len(secret),
			MinKey, MaxKey)
	}
	return Key{secret, from}, nil
}

func (k Key) derive(salt []byte, purpose string, size int) []byte {
	out, err := hkdf.Key(sha256.New, k.secret, salt, purpose, size)
	if err != nil {
		panic(err) // derive is never called with a size that is too large
	}
	return out
}

// ID returns 8 hexadecimal digits that distinguish keys and reveal nothing else about them.
func (k Key) ID() string { return hex.EncodeToString(k.derive(nil, "drover key id", 4)) }

// Known reports whether k is not the zero value.
func (k Key) Known() bool { return len(k.secret) > 0 }

// String returns the ID.
func (k Key) String() string { return k.ID() }

// GoString returns the ID.
func (k Key) GoString() string { return k.ID() }

// NewDataKey returns a new data key and its ID.
func NewDataKey() (uuid.UUID, []byte) {
	key := make([]byte, dataKey)
	_, _ = rand.Read(key) // never fails
	return uuid.New(), key
}

const (
	wrapVersion = 1
	wrapPurpose = "drover data key"
	saltSize    = 32
)

func (k Key) seal(salt []byte) cipher.AEAD {
	block, err := aes.NewCipher(k.derive(salt, wrapPurpose, 32))
	if err != nil {
		panic(err) // the key always has the right size
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES always has the right block size
	}
	return aead
}

// Wrap wraps a data key. The result can be unwrapped only for the same ID. Its field Wrapped has 125 bytes: the
// version, the salt, the nonce of 12 bytes, the encrypted data key and the tag of 16 bytes.
func (k Key) Wrap(id uuid.UUID, data []byte) dataset.Encryption {
	out := make([]byte, 1+saltSize, 1+saltSize+dataKey+28)
	out[0] = wrapVersion
	_, _ = rand.Read(out[1:]) // never fails
	return dataset.Encryption{ID: id, KeyID: k.ID(), Wrapped: k.seal(out[1:]).Seal(out, nil, data, id[:])}
}

// Unwrap returns the wrapped data key. It fails with ErrForbidden if another key wrapped the data key, with
// ErrUnsupported if the wrapped form has a later version, and with ErrCorrupt if it is damaged.
func (k Key) Unwrap(e dataset.Encryption) ([]byte, error) {
	if id := k.ID(); id != e.KeyID {
		return nil, dataset.Errorf(dataset.ErrForbidden,
			"its data key is wrapped by key %s, and %s is key %s (put that key back; if it was replaced: drover "+
				"volume rekey NAME --old-key-file FILE)", dataset.Clip(e.KeyID), k.from, id)
	}
	if len(e.Wrapped) > 0 {
		if err := dataset.CheckFormat("its recorded data key", int(e.Wrapped[0]), wrapVersion); err != nil {
			return nil, err
		}
	}
	if len(e.Wrapped) < 1+saltSize || e.Wrapped[0] != wrapVersion {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "its recorded data key is damaged: it is not a wrapped key")
	}
	salt, sealed := e.Wrapped[1:1+saltSize], e.Wrapped[1+saltSize:]
	data, err := k.seal(salt).Open(nil, nil, sealed, e.ID[:])
	if err != nil || len(data) != dataKey {
		return nil, dataset.Errorf(dataset.ErrCorrupt,
			"its recorded data key cannot be unwrapped with key %s, by which it is wrapped: the record is "+
				"damaged", e.KeyID)
	}
	return data, nil
}

var _ fmt.GoStringer = Key{}
