package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/droverhq/drover/dataset"
)

// Mistake is one error at one place of a file. It is a dataset.ErrInvalid.
type Mistake struct {
	File         string
	Line, Column int    // from 1; 0 means the whole file
	Message      string // begins with the path of the key
	Text         string // the line without surrounding blanks
}

// Error returns one line: the place, the message, and the text in that place.
func (m *Mistake) Error() string {
	if m.Line == 0 {
		return fmt.Sprintf("%s: %s", m.File, m.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s in %q", m.File, m.Line, m.Column, m.Message, m.Text)
}

// Unwrap implements errors.Is for dataset.ErrInvalid.
func (m *Mistake) Unwrap() error { return dataset.ErrInvalid }

// Mistakes are all mistakes that were found in a file. The zero value means none.
type Mistakes []*Mistake

// Error returns the line of the first mistake, and the number of the others.
func (m Mistakes) Error() string {
	if len(m) == 1 {
		return m[0].Error()
	}
	return fmt.Sprintf("%s (and %d more)", m[0].Error(), len(m)-1)
}

// Unwrap returns the single mistakes.
func (m Mistakes) Unwrap() []error {
	list := make([]error, len(m))
	for i, mistake := range m {
		list[i] = mistake
	}
	return list
}

// Add adds the mistakes in err, which may be nil. It returns true if there are none.
func (m *Mistakes) Add(err error) bool {
	if err == nil {
		return true
	}
	var many Mistakes
	var mistake *Mistake
	switch {
	case errors.As(err, &many):
		*m = append(*m, many...)
	case errors.As(err, &mistake):
		*m = append(*m, mistake)
	default:
		*m = append(*m, &Mistake{Message: err.Error()})
	}
	return false
}

// Err returns the mistakes in the order of the file as one error, or nil if there are none. Of several mistakes at one
// place it returns only the first.
func (m Mistakes) Err() error {
	if len(m) == 0 {
		return nil
	}
	m = slices.Clone(m)
	slices.SortStableFunc(m, func(a, b *Mistake) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	// The value of an anchor is read for each use, so its mistakes occur several times.
	return slices.CompactFunc(m, func(a, b *Mistake) bool {
		return a.Line == b.Line && a.Column == b.Column && a.Line > 0
	})
}

// All returns the single mistakes of err, or err itself if it contains none.
func All(err error) []error {
	var many Mistakes
	if errors.As(err, &many) {
		return many.Unwrap()
	}
	return []error{err}
}
