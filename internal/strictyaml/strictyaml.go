// Package strictyaml reads configuration in YAML so that a mistake is never
// passed over: every error names file, line and column, shows the offending line
// and, for a key that is not known, the nearest one that is. Duplicate keys,
// several documents, and values of another type than wanted are mistakes.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/droverhq/drover/dataset"
)

// The bounds of a file. They are far above what people write and far below what
// hurts.
const (
	MaxBytes = 1 << 20
	maxDepth = 16
)

// Node is one value with its place. The zero Node stands for an absent value:
// its readers return zero values. Safe for concurrent use.
type Node struct {
	doc  *document
	node ast.Node
	path string
}

type document struct {
	file    string
	lines   []string
	anchors map[string]ast.Node
}

// Parse reads a file of one document. The name is only for errors, which are
// dataset.ErrInvalid.
func Parse(file string, src []byte) (Node, error) {
	d := &document{file: file, lines: strings.Split(string(src), "\n"), anchors: map[string]ast.Node{}}
	if len(src) > MaxBytes {
		return Node{}, dataset.Errorf(dataset.ErrInvalid, "%s: %d bytes are too many (%d at most)", file, len(src), MaxBytes)
	}
	f, err := parser.ParseBytes(src, 0)
	if err != nil {
		return Node{}, d.syntax(err)
	}
	var bodies []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		return Node{doc: d}, nil
	case 1:
	default:
		return Node{}, d.at(bodies[1].GetToken(), "a second document: want one")
	}
	if err := d.collect(bodies[0], 0); err != nil {
		return Node{}, err
	}
	return Node{doc: d, node: bodies[0]}, nil
}

// collect notes the anchors and bounds the depth.
func (d *document) collect(n ast.Node, depth int) error {
	if n == nil {
		return nil
	}
	if depth > maxDepth {
		return d.at(n.GetToken(), "nested too deeply (%d levels at most)", maxDepth)
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		d.anchors[n.Name.GetToken().Value] = n.Value
		return d.collect(n.Value, depth+1)
	case *ast.MappingNode:
		for _, v := range n.Values {
			if err := d.collect(v.Value, depth+1); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		return d.collect(n.Value, depth+1)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			if err := d.collect(v, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *document) syntax(err error) error {
	var se yaml.Error
	if errors.As(err, &se) && se.GetToken() != nil {
		return d.at(se.GetToken(), "%s", se.GetMessage())
	}
	first, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	return dataset.Errorf(dataset.ErrInvalid, "%s: %s", d.file, first)
}

// at makes an error at a token's place.
func (d *document) at(t *token.Token, format string, args ...any) error {
	msg := fmt.Sprintf(format, args...)
	if t == nil || t.Position == nil {
		return dataset.Errorf(dataset.ErrInvalid, "%s: %s", d.file, msg)
	}
	line := ""
	if n := t.Position.Line; n >= 1 && n <= len(d.lines) {
		line = strings.TrimSpace(d.lines[n-1])
		if len(line) > 120 {
			line = line[:117] + "..."
		}
		line = fmt.Sprintf(" in %q", line)
	}
	return dataset.Errorf(dataset.ErrInvalid, "%s:%d:%d: %s%s", d.file, t.Position.Line, t.Position.Column, msg, line)
}

// Errorf makes an error at the node's place, naming the key.
func (n Node) Errorf(format string, args ...any) error {
	msg := fmt.Sprintf(format, args...)
	if n.path != "" {
		msg = n.path + ": " + msg
	}
	if n.doc == nil {
		return dataset.Errorf(dataset.ErrInvalid, "%s", msg)
	}
	var t *token.Token
	if n.node != nil {
		t = n.node.GetToken()
	}
	return n.doc.at(t, "%s", msg)
}

// Wrap puts the node's place before an error.
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

// value is the node behind anchors and aliases.
func (n Node) value() ast.Node {
	v := n.node
	for range maxDepth {
		switch x := v.(type) {
		case *ast.AnchorNode:
			v = x.Value
		case *ast.AliasNode:
			v = n.doc.anchors[x.Value.GetToken().Value]
		case *ast.TagNode:
			return nil
		default:
			return v
		}
	}
	return nil
}

// Field is one key of a mapping, in the order of the file.
type Field struct {
	Name string
	Node Node
}

// Fields returns the keys of a mapping in their order; none for an absent one.
// Keys are plain strings, each there once.
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
		return nil, n.Errorf("want keys with values, not %s", kind(v))
	}
	var out []Field
	seen := map[string]bool{}
	for _, v := range values {
		key, ok := v.Key.(ast.ScalarNode)
		if _, merge := v.Key.(*ast.MergeKeyNode); !ok || merge {
			return nil, n.doc.at(v.Key.GetToken(), "%s: want a plain key", n.path)
		}
		name := key.GetToken().Value
		if seen[name] {
			return nil, n.doc.at(key.GetToken(), "%s: key %q is there twice", n.path, name)
		}
		seen[name] = true
		path := name
		if n.path != "" {
			path = n.path + "." + name
		}
		out = append(out, Field{name, Node{n.doc, v.Value, path}})
	}
	return out, nil
}

// Keys returns the values of a mapping by key. A key that is not among known is
// a mistake; the error names the nearest that is. One of later is refused by
// name, with the words given.
func (n Node) Keys(known []string, later map[string]string) (map[string]Node, error) {
	fields, err := n.Fields()
	if err != nil {
		return nil, err
	}
	out := map[string]Node{}
	for _, f := range fields {
		if why, ok := later[f.Name]; ok {
			return nil, f.Node.Errorf("%s", why)
		}
		ok := false
		for _, k := range known {
			ok = ok || k == f.Name
		}
		if !ok {
			hint := ""
			if near := dataset.Nearest(f.Name, known); near != "" {
				hint = ", did you mean " + near + "?"
			}
			return nil, f.Node.Errorf("unknown key %q%s (have: %s)", f.Name, hint, dataset.Have(known))
		}
		out[f.Name] = f.Node
	}
	return out, nil
}

// Items returns the values of a list; none for an absent one.
func (n Node) Items() ([]Node, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.SequenceNode:
		out := make([]Node, len(v.Values))
		for i, x := range v.Values {
			out[i] = Node{n.doc, x, fmt.Sprintf("%s[%d]", n.path, i)}
		}
		return out, nil
	default:
		return nil, n.Errorf("want a list, not %s", kind(v))
	}
}

// String returns a text; "" for an absent one.
func (n Node) String() (string, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return "", nil
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return v.Value.Value, nil
	default:
		return "", n.Errorf("want a text, not %s (put it in quotes)", kind(v))
	}
}

// Scalar returns a text or a number as it is written; "" for an absent one.
func (n Node) Scalar() (string, error) {
	switch v := n.value().(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return v.GetToken().Value, nil
	default:
		return n.String()
	}
}

// Int returns a whole number from 0 to most; 0 for an absent one.
func (n Node) Int(most int64) (int64, error) {
	v := n.value()
	if n.Absent() {
		return 0, nil
	}
	i, ok := v.(*ast.IntegerNode)
	if !ok {
		return 0, n.Errorf("want a whole number, not %s", kind(v))
	}
	var x int64
	switch w := i.Value.(type) {
	case int64:
		x = w
	case uint64:
		x = int64(min(w, 1<<62)) //nolint:gosec // bounded in the same breath
	}
	if x < 0 || x > most {
		return 0, n.Errorf("want a number from 0 to %d, not %d", most, x)
	}
	return x, nil
}

// Bool returns true or false; false for an absent one.
func (n Node) Bool() (bool, error) {
	switch v := n.value().(type) {
	case nil, *ast.NullNode:
		return false, nil
	case *ast.BoolNode:
		return v.Value, nil
	default:
		return false, n.Errorf("want true or false, not %s", kind(v))
	}
}

// IsMap reports whether the value has keys.
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
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	}
	return "something else"
}
