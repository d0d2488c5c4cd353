// Package selector reads and evaluates the expressions that choose nodes by their
// facts: a profile's placement, and the filter of a list of nodes. The grammar is that
// of expr-lang/expr (go-bexpr has no < and no >), of which this takes comparisons of
// facts with and, or and not: no calls, no loops, nothing that could take long or more
// memory than the expression itself. It is pure.
//
//	architecture == "x86_64" and load_10 < 20
//	labels.rack in ["r1", "r2"] and pool.free > "100GiB"
//	"zfs" in backends or not is_virtual
package selector

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"github.com/droverhq/drover/dataset"
)

// MaxText bounds an expression, in bytes, and with it what evaluating it costs.
const MaxText = 1 << 10

// Env is the subject of an expression: a node, and one of its pools.
type Env struct {
	Node  dataset.Node
	Facts dataset.Facts
	Pool  dataset.PoolFacts
}

// Expr is an expression that was read and checked. It never changes; safe for
// concurrent use. The zero value fits everything.
type Expr struct {
	root condition
	text string
	pool bool // it looks at the pool
}

// Mistake is a mistake in an expression, with its place. It is dataset.ErrInvalid.
type Mistake struct {
	At      int // characters before it
	Message string
}

func (m *Mistake) Error() string {
	return fmt.Sprintf("%s (at character %d)", m.Message, m.At+1)
}

// Unwrap makes errors.Is(err, dataset.ErrInvalid) hold.
func (m *Mistake) Unwrap() error { return dataset.ErrInvalid }

func wrong(at int, format string, args ...any) error {
	return &Mistake{at, fmt.Sprintf(format, args...)}
}

// Parse reads an expression. Its names must be facts, and compared values must be of one kind: otherwise the
// error, a *Mistake, has the place, the existing facts, and the one that was probably meant.
func Parse(text string) (e Expr, err error) {
	if strings.TrimSpace(text) == "" {
		return e, wrong(0, "the expression is empty")
	}
	if len(text) > MaxText {
		return e, wrong(0, "an expression of %d bytes is too long (%d at most)", len(text), MaxText)
	}
	tree, err := parse(text)
	if err != nil {
		return e, err
	}
	r := reader{}
	e.root, err = r.condition(tree)
	e.text, e.pool = text, r.pool
	return e, err
}

// parse turns a panic of the parser into an error: the text is a user's, the bug is
// not.
func parse(text string) (n ast.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = nil, wrong(0, "it cannot be read: %v", p)
		}
	}()
	tree, err := parser.Parse(text)
	var at *file.Error
	switch {
	case errors.As(err, &at) && strings.Contains(at.Message, `Operator("=")`):
		return nil, wrong(at.From, "want == for a comparison, not =")
	case errors.As(err, &at):
		return nil, wrong(at.From, "it cannot be read: %s", dataset.Clip(at.Message))
	case err != nil:
		return nil, wrong(0, "it cannot be read: %v", err)
	}
	return tree.Node, nil
}

// String is the expression as it was written.
func (e Expr) String() string { return e.text }

// OfPool reports whether the expression looks at the pool.
func (e Expr) OfPool() bool { return e.pool }

// Misfit says which comparison keeps an environment from fitting, with the value that
// there is: "load_10 is 34, not < 20". It is empty when the environment fits. The cost
// is bounded by the length of the expression.
func (e Expr) Misfit(env Env) string {
	if e.root == nil {
		return ""
	}
	return e.root.why(env, true)
}
