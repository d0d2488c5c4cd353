package dump

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Records are the records of a store at one moment. All of them are in memory.
type Records struct {
	summary Summary
	entries []store.Entry
}

// Read reads the records of a store that is in use. kind is the kind of the store. It fails with dataset.ErrConflict if
// a Load into the store did not end, and with dataset.ErrNotFound if the store is empty.
//
// Load accepts the dump of a store in use. The clock of the store is then older than the one that agents and replicas
// have seen, unless nothing has changed since. So the store counts as restored from an older backup.
func Read(ctx context.Context, st store.Store, kind string) (Records, error) {
	r := Records{summary: Summary{From: kind}}
	if err := CheckComplete(ctx, st); err != nil {
		return r, err
	}
	all, err := st.List(ctx, "", "", 0) // without a limit, all entries are from the same moment
	if err != nil {
		return r, err
	}
	for _, e := range all {
		if strings.HasPrefix(e.Key, store.LivePrefix) || e.Key == markKey {
			continue
		}
		if e.Key == clusterKey {
			if r.summary.Cluster, err = identity(e.Value); err != nil {
				return r, err
			}
		}
		r.entries = append(r.entries, e)
		r.summary.add(e.Key)
		r.summary.Index = max(r.summary.Index, e.Index)
	}
	if r.summary.Cluster == uuid.Nil {
		return r, dataset.Errorf(dataset.ErrNotFound, "the store is empty")
	}
	newest, err := st.Watch(ctx, "cluster/", 0) // deleted keys had indexes too, but have no entry
	r.summary.Index = max(r.summary.Index, newest)
	return r, err
}

// Summary describes the records. It has no checksum.
func (r Records) Summary() Summary { return r.summary }

// Digest returns a checksum of the records, except those whose key begins with one of the prefixes.
func (r Records) Digest(except ...string) string {
	h := sha256.New()
next:
	for _, e := range r.entries {
		for _, prefix := range except {
			if strings.HasPrefix(e.Key, prefix) {
				continue next
			}
		}
		fmt.Fprintf(h, "%d %s %d ", len(e.Key), e.Key, len(e.Value))
		h.Write(e.Value)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Write writes the dump of the records.
func (r Records) Write(w io.Writer) error {
	out := &writer{w: w, hash: sha256.New()}
	if err := out.json(head{format, version, r.summary.From, r.summary.Cluster}); err != nil {
		return err
	}
	for _, e := range r.entries {
		if err := out.entry(e); err != nil {
			return err
		}
	}
	if err := out.json(count{&r.summary.Entries, r.summary.Index}); err != nil {
		return err
	}
	return out.json(tail{hex.EncodeToString(out.hash.Sum(nil))})
}
