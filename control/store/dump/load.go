package dump

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// mark is the value of markKey.
type mark struct {
	Sum string `json:"sha256"` // of the dump
}

// CheckComplete fails with dataset.ErrConflict if a Load into the store began and did not end. Missing records would
// look absent, so nothing may use such a store.
func CheckComplete(ctx context.Context, st store.Store) error {
	_, err := st.Get(ctx, markKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return dataset.Errorf(dataset.ErrConflict,
		"an import into the store was cut short: run drover store import with the same file again, "+
			"before anything else")
}

// Load writes the records of a dump to a store. Afterwards all indexes of the store are above those of the dump. It
// checks the whole dump before it writes anything. If it is interrupted, the store is incomplete, and CheckComplete
// fails. Call Load again with the same dump: it deletes what the first call wrote, and writes all records.
//
// It fails with dataset.ErrExists if the store is not empty and replace is not set, with dataset.ErrInUse if the store
// is in use, and with dataset.ErrUnsupported if the store is not a store.Raiser. It fails with dataset.ErrConflict if
// the file was changed while it was read, if another program changes the store, or if a Load of another dump did not
// end and replace is not set. It also fails with the errors of Check.
func Load(ctx context.Context, st store.Store, r io.ReadSeeker, replace bool) (Summary, error) {
	sum, err := Check(r)
	if err != nil {
		return sum, err
	}
	if err := checkIdle(ctx, st); err != nil {
		return sum, err
	}
	marked, err := startLoad(ctx, st, sum, replace)
	if err != nil {
		return sum, err
	}
	l := loading{ctx: ctx, st: st, mark: marked}
	if err := l.clear(); err != nil {
		return sum, l.failed(err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return sum, l.failed(err)
	}
	again, err := read(r, func(e store.Entry) error { return l.add(store.Write{Key: e.Key, Value: e.Value}) })
	if err == nil && again != sum {
		err = dataset.Errorf(dataset.ErrConflict, "the file was changed while it was read")
	}
	if err == nil {
		err = l.flush()
	}
	if err == nil {
		l.writes = []store.Write{{Key: markKey, Delete: true}}
		err = l.flush()
	}
	return sum, l.failed(err)
}

// PreviewLoad fails as Load would, and writes nothing.
func PreviewLoad(ctx context.Context, st store.Store, r io.Reader, replace bool) (Summary, error) {
	sum, err := Check(r)
	if err == nil {
		err = checkIdle(ctx, st)
	}
	if err == nil {
		_, err = checkReplaceable(ctx, st, sum, replace)
	}
	return sum, err
}

// Check reads a dump and returns its summary. It fails with dataset.ErrInvalid if the file is not a dump, with
// dataset.ErrUnsupported for a dump of a later version of Drover, and with dataset.ErrCorrupt if it is damaged or
// truncated.
func Check(r io.Reader) (Summary, error) {
	return read(r, func(store.Entry) error { return nil })
}

// checkReplaceable fails with the errors of Load if a dump cannot replace the content of the store. Otherwise it
// returns the store as a Raiser.
func checkReplaceable(ctx context.Context, st store.Store, sum Summary, replace bool) (store.Raiser, error) {
	raiser, ok := st.(store.Raiser)
	if !ok {
		return nil, dataset.Errorf(dataset.ErrUnsupported, "this kind of store cannot replace another one")
	}
	was, err := st.Get(ctx, markKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var m mark
	if was.Index != 0 && json.Unmarshal(was.Value, &m) == nil && m.Sum == sum.Sum {
		replace = true // replaces what an earlier Load of this dump has written
	}
	if replace {
		return raiser, nil
	}
	return raiser, checkEmpty(ctx, st)
}

// startLoad examines the content of the store and writes the mark. It returns the index of the mark.
func startLoad(ctx context.Context, st store.Store, sum Summary, replace bool) (uint64, error) {
	raiser, err := checkReplaceable(ctx, st, sum, replace)
	if err != nil {
		return 0, err
	}
	if err := raiser.Raise(ctx, sum.Index); err != nil {
		return 0, err
	}
	was, err := st.Get(ctx, markKey) // after Raise, which may change its index
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	value, err := json.Marshal(mark{sum.Sum})
	if err != nil {
		return 0, err
	}
	return st.Txn(ctx, []store.Precondition{{Key: markKey, Index: was.Index}},
		[]store.Write{{Key: markKey, Value: value}})
}

// checkEmpty fails with dataset.ErrExists unless the store is empty.
func checkEmpty(ctx context.Context, st store.Store) error {
	if err := CheckComplete(ctx, st); err != nil {
		return err
	}
	list, err := st.List(ctx, "", "", 1)
	if err != nil || len(list) == 0 {
		return err
	}
	cluster, err := clusterOf(ctx, st)
	if err != nil {
		return err
	}
	names, err := st.List(ctx, "names/", "", page)
	if err != nil {
		return err
	}
	more := ""
	if len(names) == page {
		more = " or more"
	}
	return dataset.Errorf(dataset.ErrExists, "the store is not empty: it is that of cluster %s, with %d%s "+
		"volumes (--force replaces all that it holds; export it before)", cluster, len(names), more)
}

// loading is a Load in progress.
type loading struct {
	ctx    context.Context
	st     store.Store
	mark   uint64
	writes []store.Write
	bytes  int
}

func (l *loading) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrConflict):
		return dataset.Errorf(dataset.ErrConflict,
			"another program changes the store during the import: stop it, and repeat the command (%w)", err)
	}
	return fmt.Errorf("the import is incomplete: repeat the command to continue it: %w", err)
}

// clear deletes everything in the store except the mark.
func (l *loading) clear() error {
	err := eachEntry(l.ctx, l.st, func(e store.Entry) error { return l.add(store.Write{Key: e.Key, Delete: true}) })
	if err != nil {
		return err
	}
	return l.flush()
}

// add adds a write. If the write does not fit into one transaction with the earlier writes, add commits the earlier
// ones first.
func (l *loading) add(w store.Write) error {
	size := store.Size(w.Key, w.Value)
	if len(l.writes) == store.MaxOps-1 || l.bytes+size > store.MaxBytes-store.Size(markKey, nil) {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.writes, l.bytes = append(l.writes, w), l.bytes+size
	return nil
}

// flush commits the added writes, if the mark still belongs to this Load.
func (l *loading) flush() error {
	if len(l.writes) == 0 {
		return nil
	}
	_, err := l.st.Txn(l.ctx, []store.Precondition{{Key: markKey, Index: l.mark}}, l.writes)
	l.writes, l.bytes = nil, 0
	return err
}
