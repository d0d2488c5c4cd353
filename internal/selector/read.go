package selector

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/droverhq/drover/dataset"
)

// operand is one side of a comparison.
type operand struct {
	kind     kind
	text     string
	at       int
	constant bool
	get      func(Env) value
}

// reader converts the parser's tree into conditions, and refuses everything else.
type reader struct{ pool bool }

// swapped returns the comparison with both sides exchanged.
func swapped(op string) string {
	return cmp.Or(map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<="}[op], op)
}

func offset(n ast.Node) int { return n.Location().From }

func (r *reader) condition(n ast.Node) (condition, error) {
	switch n := n.(type) {
	case *ast.BinaryNode:
		switch n.Operator {
		case "and", "&&", "or", "||":
			return r.junction(n)
		case "==", "!=", "<", "<=", ">", ">=":
			return r.comparison(n)
		case "in":
			return r.in(n)
		case "matches":
			return r.match(n)
		}
	case *ast.UnaryNode:
		if n.Operator == "not" || n.Operator == "!" {
			c, err := r.condition(n.Node)
			return negation{c}, err
		}
	case *ast.IdentifierNode, *ast.MemberNode:
		o, err := r.operand(n)
		if err == nil && o.kind != truth {
			err = mistakef(o.at, "%s is %s: compare it with a value", o.text, o.kind)
		}
		return flag{o}, err
	case nil:
		return nil, mistakef(0, "it cannot be read")
	}
	return nil, mistakef(offset(n), "expected comparisons of facts, with and, or and not between them (available: "+
		"==, !=, <, <=, >, >=, in, matches)")
}

func (r *reader) junction(n *ast.BinaryNode) (condition, error) {
	j := junction{all: n.Operator == "and" || n.Operator == "&&"}
	for _, side := range []ast.Node{n.Left, n.Right} {
		c, err := r.condition(side)
		if err != nil {
			return nil, err
		}
		j.list = append(j.list, c)
	}
	return j, nil
}

func (r *reader) comparison(n *ast.BinaryNode) (condition, error) {
	left, err := r.operand(n.Left)
	if err != nil {
		return nil, err
	}
	right, err := r.operand(n.Right)
	if err != nil {
		return nil, err
	}
	c := comparison{left, right, n.Operator}
	if left.constant {
		c = comparison{right, left, swapped(n.Operator)}
	}
	if c.left.constant {
		return nil, mistakef(left.at, "%s and %s are the same everywhere: compare a fact", left.text, right.text)
	}
	if c.right, err = convert(c.right, c.left); err != nil {
		return nil, err
	}
	ordered := c.op != "==" && c.op != "!="
	if k := c.left.kind; k == list || ordered && (k == text || k == truth) {
		return nil, mistakef(offset(n), "%s is %s and cannot be compared with %s%s", c.left.text, k, c.op, adviceFor(k))
	}
	return c, nil
}

func adviceFor(k kind) string {
	switch k {
	case list:
		return ` (use "loop" in backends)`
	case text:
		return " (available: ==, !=, in, matches)"
	}
	return " (available: ==, !=)"
}

// convert converts an operand to the kind of the operand that it is compared with.
func convert(o, with operand) (operand, error) {
	want := with.kind
	switch {
	case o.kind == want && o.kind != literal:
	case o.kind == literal && (want == text || want == list):
		o.kind = text
	case o.kind == literal && want == version:
		if len(numbers(o.get(Env{}).text)) == 0 {
			return o, mistakef(o.at, `%s is a version: expected numbers, such as "6.1", not %s`, with.text, o.text)
		}
		o.kind = version
	case want == bytes && o.constant && o.kind != truth:
		word := o.text
		if o.kind == literal {
			word = o.get(Env{}).text
		}
		size, err := dataset.ParseSize(word)
		if err != nil {
			return o, mistakef(o.at, "%s is a size in quotes: %v", with.text, err)
		}
		o.kind, o.text, o.get = bytes, size.Human(), constant(value{number: float64(size)})
	default:
		return o, mistakef(o.at, "%s is %s and cannot be compared with %s, which is %s", with.text, want,
			o.text, o.kind)
	}
	return o, nil
}

func constant(v value) func(Env) value { return func(Env) value { return v } }

func (r *reader) operand(n ast.Node) (operand, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return operand{literal, strconv.Quote(dataset.Clip(n.Value)), offset(n), true,
			constant(value{text: n.Value})}, nil
	case *ast.IntegerNode:
		return numberOperand(n, float64(n.Value)), nil
	case *ast.FloatNode:
		return numberOperand(n, n.Value), nil
	case *ast.BoolNode:
		return operand{truth, strconv.FormatBool(n.Value), offset(n), true, constant(value{truth: n.Value})}, nil
	case *ast.UnaryNode:
		o, err := r.operand(n.Node)
		if err != nil || n.Operator != "-" || o.kind != number || !o.constant {
			break
		}
		return numberOperand(n, -o.get(Env{}).number), nil
	case *ast.IdentifierNode:
		return r.namedOperand(n.Value, offset(n))
	case *ast.MemberNode:
		return r.member(n)
	case *ast.BinaryNode:
		return r.arithmetic(n)
	}
	return operand{}, mistakef(offset(n), "expected a fact, a number or a text in quotes (facts: %s)",
		strings.Join(Names(), ", "))
}

func numberOperand(n ast.Node, f float64) operand {
	return operand{number, value{number: f}.show(number), offset(n), true, constant(value{number: f})}
}

func (r *reader) member(n *ast.MemberNode) (operand, error) {
	base, ok := n.Node.(*ast.IdentifierNode)
	key, okKey := n.Property.(*ast.StringNode)
	if !ok || !okKey || n.Optional || n.Method {
		return operand{}, mistakef(offset(n), "expected a fact (available: %s)", strings.Join(Names(), ", "))
	}
	if base.Value != "labels" {
		return r.namedOperand(base.Value+"."+key.Value, offset(base))
	}
	if err := dataset.CheckLabel(key.Value); err != nil {
		return operand{}, mistakef(offset(key), "%v", err)
	}
	return operand{text, "labels." + key.Value, offset(base), false, label(key.Value).get}, nil
}

func (r *reader) namedOperand(name string, at int) (operand, error) {
	f, ok := facts()[name]
	if !ok {
		names := Names()
		near := dataset.Nearest(name, names)
		if near == "" { // a fact whose name was abbreviated
			i := slices.IndexFunc(names, func(n string) bool { return strings.HasSuffix(n, "."+name) })
			if i >= 0 {
				near = names[i]
			}
		}
		if near != "" {
			near = ", did you mean " + near + "?"
		}
		return operand{}, mistakef(at, "unknown fact %q%s (available: %s)", dataset.Clip(name), near,
			strings.Join(names, ", "))
	}
	r.pool = r.pool || f.pool
	return operand{f.kind, name, at, false, f.get}, nil
}

// arithmetic reads an arithmetic expression of numbers, or the ratio of two sizes.
func (r *reader) arithmetic(n *ast.BinaryNode) (operand, error) {
	act, ok := map[string]func(x, y float64) float64{
		"+": func(x, y float64) float64 { return x + y }, "-": func(x, y float64) float64 { return x - y },
		"*": func(x, y float64) float64 { return x * y }, "/": func(x, y float64) float64 { return x / y },
	}[n.Operator]
	if !ok {
		return operand{}, mistakef(offset(n), "cannot compute with %s (available: +, -, *, /)", n.Operator)
	}
	x, err := r.operand(n.Left)
	if err != nil {
		return x, err
	}
	y, err := r.operand(n.Right)
	if err != nil {
		return y, err
	}
	if ratio := n.Operator == "/" && x.kind == bytes && y.kind == bytes; !ratio &&
		(x.kind != number || y.kind != number) {
		return x, mistakef(offset(n), "cannot compute %s %s %s: expected numbers, or a size / a size", x.text,
			n.Operator, y.text)
	}
	return operand{number, x.text + " " + n.Operator + " " + y.text, x.at, x.constant && y.constant, func(e Env) value {
		return value{number: act(x.get(e).number, y.get(e).number)}
	}}, nil
}

// in reads the operator "in": a text on the left, and on the right a list in brackets or a fact that is a list.
func (r *reader) in(n *ast.BinaryNode) (condition, error) {
	left, err := r.operand(n.Left)
	if err != nil {
		return nil, err
	}
	if several, ok := n.Right.(*ast.ArrayNode); ok {
		return r.oneOf(left, several)
	}
	right, err := r.operand(n.Right)
	if err != nil {
		return nil, err
	}
	if right.kind != list || left.kind != literal {
		return nil, mistakef(offset(n), `expected "a text" in backends, or a fact in ["one", "other"], not %s in %s`,
			left.text, right.text)
	}
	return listContains{right, left.get(Env{}).text}, nil
}

func (r *reader) oneOf(left operand, several *ast.ArrayNode) (condition, error) {
	if left.constant || left.kind != text && left.kind != version {
		return nil, mistakef(left.at, "%s cannot be searched in a list: expected a fact that is a text", left.text)
	}
	a := oneOf{operand: left}
	for _, n := range several.Nodes {
		word, ok := n.(*ast.StringNode)
		if !ok {
			return nil, mistakef(offset(n), "expected texts in quotes between the brackets")
		}
		a.words = append(a.words, word.Value)
	}
	if len(a.words) == 0 {
		return nil, mistakef(offset(several), "the list is empty")
	}
	var quoted []string
	for _, w := range a.words {
		quoted = append(quoted, strconv.Quote(w))
	}
	a.text = "[" + dataset.Clip(strings.Join(quoted, ", ")) + "]"
	return a, nil
}

func (r *reader) match(n *ast.BinaryNode) (condition, error) {
	left, err := r.operand(n.Left)
	if err != nil {
		return nil, err
	}
	word, ok := n.Right.(*ast.StringNode)
	if !ok || left.constant || left.kind != text && left.kind != version {
		return nil, mistakef(offset(n),
			`expected a fact that is a text, and an expression in quotes: node matches "^web"`)
	}
	pattern, err := regexp.Compile(word.Value)
	if err != nil {
		return nil, mistakef(offset(word), "%v", err)
	}
	return match{left, pattern}, nil
}
