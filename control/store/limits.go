package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// Backuper is a store that can be copied while it is in use.
type Backuper interface {
	// Backup writes the whole store, as it was at one moment, to w, in the form in which the store can be opened.
	// Other calls can change the store meanwhile, however slow w is. After an error, the copy is useless.
	Backup(ctx context.Context, w io.Writer) error
}

// Raiser is a store that can replace another store. Its indexes must then be above all indexes that the other store
// gave out.
type Raiser interface {
	// Raise makes every later index larger than index. If the indexes are larger already, it does nothing. Nobody else
	// may use the store meanwhile. Idempotent.
	Raise(ctx context.Context, index uint64) error
}

// CheckKey checks a key against the contract. It fails with ErrTooLarge if the key is too long, and with
// dataset.ErrInvalid if it is not valid.
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
		// The words between slashes become parts of URLs. A URL drops an empty word, "." and "..".
		if word == "" || word == "." || word == ".." {
			return dataset.Errorf(dataset.ErrInvalid, "bad key %q: want words with single slashes between them", key)
		}
	}
	return nil
}

// CheckTxn checks a transaction against the contract before anything is done. It fails with ErrTooLarge if a limit is
// exceeded. It fails with dataset.ErrInvalid for an invalid key, a key that is written twice, a delete with a value or
// session, a session for a key that cannot have one, and a missing session for a key that must have one.
func CheckTxn(checks []Precondition, writes []Write) error {
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

// opSize is the size of one operation without its key and value.
const opSize = 288

// Size returns how many bytes a check or write adds to a transaction: the key as a JSON string, the value in base64,
// and the JSON around them.
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

// CheckPrefix fails with dataset.ErrInvalid unless prefix can be watched: it is the beginning of a key and ends
// with a slash.
func CheckPrefix(prefix string) error {
	if word, ok := strings.CutSuffix(prefix, "/"); ok && CheckKey(word) == nil {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid, "cannot watch %.40q: want words of a key and a slash at the end", prefix)
}
