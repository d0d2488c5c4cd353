// Package selector parses and evaluates expressions that choose nodes by their facts: the placement of a profile, and
// the filter of a list of nodes. The grammar is a subset of the grammar of expr-lang/expr: comparisons of facts, with
// and, or and not. It has no calls and no loops, so an evaluation takes little time, and no more memory than the
// expression. (The library go-bexpr has no < and no >.) Package profiles checks the placement of a profile with it.
// Control parses and evaluates the placement (control/placement) and the filter of a list (control/membership). The
// package performs no I/O and has no state: an [Expr] is immutable. A new fact belongs in facts.go. A new operator
// needs a reader in read.go and a condition in condition.go.
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

// MaxText is the maximum length of an expression in bytes. It also bounds the cost of an evaluation.
const MaxText = 1 << 10

// Env is the environment in which an expression is evaluated: a node and one of its pools.
type Env struct {
	Node  dataset.Node
	Facts dataset.Facts
	Pool  dataset.PoolFacts
}

// Expr is a parsed and checked expression. It is immutable and safe for concurrent use. The zero value matches every
// environment.
type Expr struct {
	root condition
	text string
	pool bool // it refers to facts of the pool
}

// Mistake is an error in an expression, with its place. It is a dataset.ErrInvalid.
type Mistake struct {
	At      int // number of characters before it
	Message string
}

func (m *Mistake) Error() string {
	return fmt.Sprintf("%s (at character %d)", m.Message, m.At+1)
}

// Unwrap implements errors.Is for dataset.ErrInvalid.
func (m *Mistake) Unwrap() error { return dataset.ErrInvalid }

func mistakef(at int, format string, args ...any) error {
	return &Mistake{at, fmt.Sprintf(format, args...)}
}

// Parse parses an expression. Its names must be facts, and both sides of a comparison must have the same kind.
// Otherwise it returns a *Mistake with the place, the existing facts, and the fact that was probably meant.
func Parse(text string) (e Expr, err error) {
	if strings.TrimSpace(text) == "" {
		return e, mistakef(0, "the expression is empty")
	}
	if len(text) > MaxText {
		return e, mistakef(0, "an expression of %d bytes is too long (%d at most)", len(text), MaxText)
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

// parse converts a panic of the parser into an error, because the text comes from a user.
func parse(text string) (n ast.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = nil, mistakef(0, "it cannot be read: %v", p)
		}
	}()
	tree, err := parser.Parse(text)
	var at *file.Error
	switch {
	case errors.As(err, &at) && strings.Contains(at.Message, `Operator("=")`):
		return nil, mistakef(at.From, "use == for a comparison, not =")
	case errors.As(err, &at):
		return nil, mistakef(at.From, "it cannot be read: %s", dataset.Clip(at.Message))
	case err != nil:
		return nil, mistakef(0, "it cannot be read: %v", err)
	}
	return tree.Node, nil
}

// String returns the expression as it was written.
func (e Expr) String() string { return e.text }

// OfPool reports whether the expression refers to facts of the pool.
func (e Expr) OfPool() bool { return e.pool }

// Mismatch returns the comparison that an environment does not satisfy, with the actual value: "load_10 is 34, not <
// 20". If it satisfies neither side of an "or", the result names a comparison of each side. Mismatch returns "" if the
// environment fits. The cost is bounded by the length of the expression.
func (e Expr) Mismatch(env Env) string {
	if e.root == nil {
		return ""
	}
	return e.root.mismatch(env, true)
}
