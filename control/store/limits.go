package store

import (
	"context"
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
	if key == "" || key[0] == '/' || key[len(key)-1] == '/' || strings.Contains(key, "//") {
		return dataset.Errorf(dataset.ErrInvalid, "bad key %q: want words with single slashes between them", key)
	}
	return nil
}

// CheckTxn holds a transaction to the contract before anything is done:
// ErrTooLarge over a limit, dataset.ErrInvalid for a bad key, for one that is
// written twice and for a delete with a value or session.
func CheckTxn(checks []Check, writes []Write) error {
	if n := len(checks) + len(writes); n > MaxOps {
		return fmt.Errorf("%w: %d checks and writes (%d at most)", ErrTooLarge, n, MaxOps)
	}
	size := 0
	for _, c := range checks {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
		size += len(c.Key)
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
		size += len(w.Key) + len(w.Value)
	}
	if size > MaxBytes {
		return fmt.Errorf("%w: %d bytes of keys and values (%d at most)", ErrTooLarge, size, MaxBytes)
	}
	return nil
}

func checkWrite(w Write) error {
	if err := CheckKey(w.Key); err != nil {
		return err
	}
	if len(w.Value) > MaxValue {
		return fmt.Errorf("%w: value of %s has %d bytes (%d at most)", ErrTooLarge, w.Key, len(w.Value), MaxValue)
	}
	if w.Delete && (w.Value != nil || w.Session != "") {
		return dataset.Errorf(dataset.ErrInvalid, "key %s is deleted and given a value or session at once", w.Key)
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
