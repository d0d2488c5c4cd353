package pki_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/droverhq/drover/internal/pki"
)

// Certificates that are issued at the same time do not remove each other's names from the list.
func TestNoteOperatorConcurrently(t *testing.T) {
	const calls = 8
	dir := t.TempDir()
	var group sync.WaitGroup
	for i := range calls {
		group.Go(func() {
			if err := pki.NoteOperator(dir, fmt.Sprint("operator-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if names, err := pki.Operators(dir); err != nil || len(names) != calls {
		t.Errorf("%q, %v, expected %d names", names, err, calls)
	}
}
