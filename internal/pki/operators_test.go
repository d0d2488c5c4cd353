package pki_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/pki"
)

// Certificates that are issued at the same time do not remove each other's names from the list.
func TestNoteOperatorConcurrently(t *testing.T) {
	const calls = 8
	at := time.Unix(1_700_000_000, 0).UTC()
	dir := t.TempDir()
	var group sync.WaitGroup
	for i := range calls {
		group.Go(func() {
			if err := pki.NoteOperator(dir, fmt.Sprint("operator-", i), at); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if names, err := pki.Operators(dir); err != nil || len(names) != calls {
		t.Errorf("%q, %v, expected %d names", names, err, calls)
	}
	if err := pki.NoteOperator(dir, "operator-0", at.Add(time.Hour)); err != nil { // a later certificate
		t.Error(err)
	}
	until, err := pki.Operators(dir)
	if err != nil || len(until) != calls || !until["operator-0"].Equal(at.Add(time.Hour)) || !until["operator-1"].Equal(at) {
		t.Errorf("%v, %v, expected %d times", until, err, calls)
	}
}
