package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/droverhq/drover/dataset"
)

// Mistake is one thing that is wrong at one place of a file. It is a
// dataset.ErrInvalid.
type Mistake struct {
	File         string
	Line, Column int    // from 1; 0: of the whole file
	Message      string // with the path of the key before it
	Text         string // of the line, without the blanks around it
}

// Error returns one line: the place, the message, and the text in that place.
func (m *Mistake) Error() string {
	if m.Line == 0 {
		return fmt.Sprintf("%s: %s", m.File, m.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s in %q", m.File, m.Line, m.Column, m.Message, m.Text)
}

// Unwrap makes errors.Is(err, dataset.ErrInvalid) hold.
func (m *Mistake) Unwrap() error { return dataset.ErrInvalid }

// Mistakes are all that were found in a file. The zero value is none.
type Mistakes []*Mistake

// Error gives the first mistake's line and how many more there are.
func (m Mistakes) Error() string {
	if len(m) == 1 {
		return m[0].Error()
	}
	return fmt.Sprintf("%s (and %d more)", m[0].Error(), len(m)-1)
}

// Unwrap returns the single mistakes.
func (m Mistakes) Unwrap() []error {
	list := make([]error, len(m))
	for i, one := range m {
		list[i] = one
	}
	return list
}

// Add notes the mistakes in err, which may be nil, and reports whether there
// were none.
func (m *Mistakes) Add(err error) bool {
	if err == nil {
		return true
	}
	var many Mistakes
	var one *Mistake
	switch {
	case errors.As(err, &many):
		*m = append(*m, many...)
	case errors.As(err, &one):
		*m = append(*m, one)
	default:
		*m = append(*m, &Mistake{Message: err.Error()})
	}
	return false
}

// Err returns the mistakes in the order of the file as one error, nil for none.
func (m Mistakes) Err() error {
	if len(m) == 0 {
		return nil
	}
	m = slices.Clone(m)
	slices.SortStableFunc(m, func(a, b *Mistake) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	// An anchor's value is read once for every use, and is wrong each time.
	return slices.CompactFunc(m, func(a, b *Mistake) bool {
		return a.Line == b.Line && a.Column == b.Column && a.Line > 0
	})
}

// All returns the single mistakes of err, or err itself when it holds none.
func All(err error) []error {
	var many Mistakes
	if errors.As(err, &many) {
		return many.Unwrap()
	}
	return []error{err}
}
