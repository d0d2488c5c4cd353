package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// Backuper is a store that can be copied while it works.
type Backuper interface {
	// Backup writes one moment of the whole store to w, in the form that the
	// store can be opened from. Changes go on meanwhile and however slow w is.
	// After an error, w holds nothing of use.
	Backup(ctx context.Context, w io.Writer) error
}

// Raiser is a store that can take the place of another: whoever knows indexes of
// that one must see none that is not above them.
type Raiser interface {
	// Raise makes every index from now on larger than index. Nobody else may work on
	// the store meanwhile. Again, or with a smaller one: nothing.
	Raise(ctx context.Context, index uint64) error
}

// CheckKey holds a key to the contract: ErrTooLarge when it is too long,
// dataset.ErrInvalid when it is no key at all.
func CheckKey(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("%w: key %.40s… of %d bytes (%d at most)", ErrTooLarge, key, len(key), MaxKey)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return dataset.Errorf(dataset.ErrInvalid, "bad key %q: want printable ASCII without blanks", key)
		}
	}
	for word := range strings.SplitSeq(key, "/") {
		// What is between slashes stands in URLs, which lose such words.
		if word == "" || word == "." || word == ".." {
			return dataset.Errorf(dataset.ErrInvalid, "bad key %q: want words with single slashes between them", key)
		}
	}
	return nil
}

// CheckTxn holds a transaction to the contract before anything is done:
// ErrTooLarge over a limit, dataset.ErrInvalid for a bad key, for one that is
// written twice, for a delete with a value or session, and for a session where
// none belongs or none where one does.
func CheckTxn(checks []Check, writes []Write) error {
	n, size := len(checks)+len(writes), 0
	for _, c := range checks {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
		size += Size(c.Key, nil)
	}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		if err := checkWrite(w); err != nil {
			return err
		}
		if seen[w.Key] {
			return dataset.Errorf(dataset.ErrInvalid, "key %s is written twice in one transaction", w.Key)
		}
		seen[w.Key] = true
		size += Size(w.Key, w.Value)
		if w.Session != "" {
			n++
			size += Size(w.Key, nil)
		}
	}
	if n > MaxOps {
		return fmt.Errorf("%w: %d checks and writes (%d at most)", ErrTooLarge, n, MaxOps)
	}
	if size > MaxBytes {
		return fmt.Errorf("%w: %d bytes with keys and encoding (%d at most)", ErrTooLarge, size, MaxBytes)
	}
	return nil
}

// opSize is what one operation takes beside its key and value.
const opSize = 288

// Size is what a check or write adds to the size of a transaction: the key as
// JSON quotes it, the value in base64, and what stands around them.
func Size(key string, value []byte) int {
	n := opSize + len(key) + base64.StdEncoding.EncodedLen(len(value))
	for i := range len(key) {
		if strings.IndexByte("<>&\"\\", key[i]) >= 0 {
			n += len(`\u0026`) - 1
		}
	}
	return n
}

func checkWrite(w Write) error {
	if err := CheckKey(w.Key); err != nil {
		return err
	}
	live := strings.HasPrefix(w.Key, LivePrefix)
	switch {
	case len(w.Value) > MaxValue:
		return fmt.Errorf("%w: value of %s has %d bytes (%d at most)", ErrTooLarge, w.Key, len(w.Value), MaxValue)
	case w.Delete && (w.Value != nil || w.Session != ""):
		return dataset.Errorf(dataset.ErrInvalid, "key %s is deleted and given a value or session at once", w.Key)
	case live && !w.Delete && w.Session == "":
		return dataset.Errorf(dataset.ErrInvalid, "key %s is not bound: want a session for each key under %s",
			w.Key, LivePrefix)
	case !live && w.Session != "":
		return dataset.Errorf(dataset.ErrInvalid, "key %s cannot be bound to a session: only keys under %s can",
			w.Key, LivePrefix)
	}
	return nil
}

// CheckPrefix fails with dataset.ErrInvalid unless prefix can be watched: a
// key's beginning that ends with a slash.
func CheckPrefix(prefix string) error {
	if word, ok := strings.CutSuffix(prefix, "/"); ok && CheckKey(word) == nil {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid, "cannot watch %.40q: want words of a key and a slash at the end", prefix)
}
