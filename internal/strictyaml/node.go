package strictyaml

import (
	"fmt"
	"slices"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/droverhq/drover/dataset"
)

// Node is one value with its place. The zero Node is an absent value, for which all readers return zero values. Safe
// for concurrent use.
type Node struct {
	doc  *document
	node ast.Node
	key  *token.Token // nil for elements of a list and for the root
	path string
}

// Errorf returns an error at the place of the value. It names the key.
func (n Node) Errorf(format string, args ...any) error {
	if n.node == nil {
		return n.at(n.key, format, args...)
	}
	return n.at(firstToken(n.node), format, args...)
}

// firstToken returns the first token of a value. For a mapping, the parser reports the first colon instead.
func firstToken(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
}

// KeyErrorf returns an error at the place of the value's key.
func (n Node) KeyErrorf(format string, args ...any) error {
	if n.key == nil {
		return n.Errorf(format, args...)
	}
	return n.at(n.key, format, args...)
}

// WithinErrorf returns an error at a place within a text: at is the index of the character. It names the key. For a
// text of several lines, the place is the beginning of the text.
func (n Node) WithinErrorf(at int, format string, args ...any) error {
	v := n.value()
	if _, ok := v.(*ast.StringNode); !ok || n.doc == nil {
		return n.Errorf(format, args...)
	}
	t := *v.GetToken()
	place := *t.Position
	t.Position = &place
	line := []rune(n.doc.lines[place.Line-1])
	if column := quotedColumn(line, place.Column-1, t.Type, at); column < len(line) || t.Type == token.StringType &&
		column == len(line) {
		place.Column = column + 1
	}
	return n.at(&t, format, args...)
}

// quotedColumn returns the column of a character of a text in its line. A character in quotes may be written as two.
func quotedColumn(line []rune, begin int, quotes token.Type, at int) int {
	if quotes == token.StringType {
		return begin + at
	}
	i := begin + 1
	for ; at > 0 && i < len(line); at-- {
		double := quotes == token.DoubleQuoteType && line[i] == '\\'
		single := quotes == token.SingleQuoteType && line[i] == '\'' && i+1 < len(line) && line[i+1] == '\''
		if double || single {
			i++
		}
		i++
	}
	return i
}

func (n Node) at(t *token.Token, format string, args ...any) error {
	msg := fmt.Sprintf(format, args...)
	if n.path != "" {
		msg = n.path + ": " + msg
	}
	if n.doc == nil {
		return &Mistake{Message: msg}
	}
	return n.doc.at(t, "%s", msg)
}

// Wrap adds the place of the value to an error. It returns nil for nil.
func (n Node) Wrap(err error) error {
	if err == nil {
		return nil
	}
	return n.Errorf("%v", err)
}

// Absent reports whether there is no value, or null.
func (n Node) Absent() bool {
	v := n.value()
	_, null := v.(*ast.NullNode)
	return v == nil || null
}

// value returns the node behind anchors and aliases. Parse has checked that every alias has an anchor before it.
func (n Node) value() ast.Node {
	v := n.node
	for {
		switch x := v.(type) {
		case *ast.AnchorNode:
			v = x.Value
		case *ast.AliasNode:
			v = n.doc.anchors[x.Value.GetToken().Value]
		default:
			return v
		}
	}
}

// Field is one key of a mapping.
type Field struct {
	Name string
	Node Node
}

// Fields returns the keys of a mapping in order, or none for an absent value. Keys are plain scalars and unique.
func (n Node) Fields() ([]Field, error) {
	var values []*ast.MappingValueNode
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		return nil, n.Errorf("expected a mapping, not %s", kind(v))
	}
	var out []Field
	seen := map[string]bool{}
	for _, v := range values {
		key, ok := v.Key.(ast.ScalarNode)
		if _, merge := v.Key.(*ast.MergeKeyNode); !ok || merge {
			return nil, n.at(v.Key.GetToken(), "expected a plain key, not %q", dataset.Clip(v.Key.GetToken().Value))
		}
		name := key.GetToken().Value
		if seen[name] {
			return nil, n.at(key.GetToken(), "duplicate key %q", dataset.Clip(name))
		}
		seen[name] = true
		path := dataset.Clip(name)
		if n.path != "" {
			path = n.path + "." + path
		}
		out = append(out, Field{name, Node{n.doc, v.Value, key.GetToken(), path}})
	}
	return out, nil
}

// Keys returns the values of a mapping by key. A key that is not in known is a mistake, and the error names the nearest
// known key. The keys of forbidden are mistakes too, each with its value as the message. A key without a value is also
// a mistake, because its author probably forgot the value. If there are mistakes, Keys still returns the other keys.
func (n Node) Keys(known []string, forbidden map[string]string) (map[string]Node, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode, *ast.MappingNode, *ast.MappingValueNode:
	default:
		return nil, n.Errorf("expected a mapping, not %s (keys: %s)", kind(v), dataset.FormatChoices(known))
	}
	fields, err := n.Fields()
	if err != nil {
		return nil, err
	}
	out := map[string]Node{}
	var bad Mistakes
	for _, f := range fields {
		reason, refused := forbidden[f.Name]
		switch {
		case refused:
			bad.Add(f.Node.KeyErrorf("%s", reason))
		case !slices.Contains(known, f.Name):
			bad.Add(f.Node.KeyErrorf("unknown key %q%s (available: %s)", dataset.Clip(f.Name), hint(f.Name, known),
				dataset.FormatChoices(known)))
		case f.Node.Absent():
			bad.Add(f.Node.KeyErrorf("it has no value: add one, or omit the key"))
		default:
			out[f.Name] = f.Node
		}
	}
	return out, bad.Err()
}

func hint(word string, known []string) string {
	if near := dataset.Nearest(word, known); near != "" {
		return ", did you mean " + near + "?"
	}
	return ""
}

// Items returns the values of a list, or none for an absent value.
func (n Node) Items() ([]Node, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.SequenceNode:
		out := make([]Node, len(v.Values))
		for i, x := range v.Values {
			out[i] = Node{n.doc, x, nil, fmt.Sprintf("%s[%d]", n.path, i)}
		}
		return out, nil
	default:
		return nil, n.Errorf("expected a list, not %s", kind(v))
	}
}

// String returns a text, or "" for an absent value.
func (n Node) String() (string, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return "", nil
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return v.Value.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return "", n.Errorf("expected a text, not %s (put it in quotes)", kind(v))
	default:
		return "", n.Errorf("expected a text, not %s", kind(v))
	}
}

// Scalar returns a text or number as written, or "" for an absent value.
func (n Node) Scalar() (string, error) {
	switch v := n.value().(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return v.GetToken().Value, nil
	default:
		return n.String()
	}
}

// Int returns a whole number from 0 to limit, or 0 for an absent value.
func (n Node) Int(limit int64) (int64, error) {
	if n.Absent() {
		return 0, nil
	}
	i, ok := n.value().(*ast.IntegerNode)
	if !ok {
		return 0, n.Errorf("expected a whole number, not %s", kind(n.value()))
	}
	switch x := i.Value.(type) {
	case int64:
		if x >= 0 && x <= limit {
			return x, nil
		}
	case uint64:
		if x <= uint64(limit) { //nolint:gosec // limit is not negative
			return int64(x), nil //nolint:gosec // bounded by limit
		}
	}
	return 0, n.Errorf("expected a number from 0 to %d, not %s", limit, dataset.Clip(i.GetToken().Value))
}

// Bool returns true or false, or false for an absent value.
func (n Node) Bool() (bool, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return false, nil
	case *ast.BoolNode:
		return v.Value, nil
	default:
		return false, n.Errorf("expected true or false, not %s", kind(v))
	}
}

// IsMap reports whether the value is a mapping.
func (n Node) IsMap() bool {
	switch n.value().(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode, nil:
		return "nothing"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "something else"
}
