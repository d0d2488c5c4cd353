// Package strictyaml reads configuration in YAML and reports every mistake with file, line and column, the line itself
// and, for an unknown key, the nearest known one. Of several mistakes at one place, it reports the first. A file that
// is not YAML, or that is beyond the limits, has one mistake. Duplicate keys, several documents, tags, keys without a
// value and values of the wrong type are mistakes. Anchors and aliases are allowed. Merge keys ("<<") are not allowed,
// because the keys that they add have no separate place in the file. Packages internal/config and profiles read their
// files with it, and cmd/drover/internal/daemon prints the mistakes of a file. A parsed document is not changed, so
// it needs no lock. What a document may contain is in strictyaml.go, the types of values are in node.go, and the form
// of a mistake is in mistake.go.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/droverhq/drover/dataset"
)

// The limits of a file. They are far above what people write. They protect from a crash: the parser is recursive, and
// Go cannot recover from a stack overflow.
const (
	MaxBytes = 256 << 10
	maxLine  = 4096
	maxDepth = 16
)

type document struct {
	file    string
	lines   []string
	anchors map[string]ast.Node
}

// Parse parses a file with one document. An empty file is an absent node. file is the name of the file, for errors.
// Errors are dataset.ErrInvalid.
func Parse(file string, src []byte) (Node, error) {
	d := &document{file: file, lines: strings.Split(string(src), "\n"), anchors: map[string]ast.Node{}}
	tokens, err := d.tokens(src)
	if err != nil {
		return Node{}, err
	}
	f, err := d.parse(tokens)
	if err != nil {
		return Node{}, err
	}
	var bodies []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	if len(bodies) == 0 {
		return Node{doc: d}, nil
	}
	if len(bodies) > 1 {
		return Node{}, d.at(firstToken(bodies[1]), "a second document: expected one")
	}
	if err := d.collect(bodies[0], 0); err != nil {
		return Node{}, err
	}
	return Node{doc: d, node: bodies[0]}, nil
}

// tokens checks the limits of the source before the parser runs.
func (d *document) tokens(src []byte) (token.Tokens, error) {
	if len(src) > MaxBytes {
		return nil, d.wholeError("too large: %d bytes (%d at most)", len(src), MaxBytes)
	}
	for i, line := range d.lines {
		if len(line) > maxLine || !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
			return nil, d.place(i+1, 1, "expected text in UTF-8, with lines of %d bytes at most", maxLine)
		}
	}
	tokens := lexer.Tokenize(string(src))
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		}
		if depth > maxDepth {
			return nil, d.tooDeep(t)
		}
	}
	return tokens, nil
}

func (d *document) tooDeep(t *token.Token) error {
	return d.at(t, "nested too deeply (%d levels at most)", maxDepth)
}

// parse converts a panic of the parser into an error, because the file comes from an operator.
func (d *document) parse(tokens token.Tokens) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = d.wholeError("cannot be read as YAML: %v", p)
		}
	}()
	f, err = parser.Parse(tokens, 0)
	if err != nil {
		return nil, d.syntax(err)
	}
	return f, nil
}

// collect records the anchors in order, limits the depth, and refuses nodes that no reader supports.
func (d *document) collect(n ast.Node, depth int) error {
	if depth > maxDepth {
		return d.tooDeep(n.GetToken())
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		name := n.Name.GetToken().Value
		if d.anchors[name] != nil {
			return d.at(n.Name.GetToken(), "duplicate anchor %q", dataset.Clip(name))
		}
		if err := d.collect(n.Value, depth+1); err != nil {
			return err
		}
		d.anchors[name] = n.Value // added after its content, so that it cannot contain itself
		return nil
	case *ast.AliasNode:
		if name := n.Value.GetToken().Value; d.anchors[name] == nil {
			return d.at(n.GetToken(), "undefined anchor %q", dataset.Clip(name))
		}
		return nil
	case *ast.TagNode:
		return d.at(n.GetToken(), "tags are not supported: omit %s", dataset.Clip(n.GetToken().Value))
	}
	for _, child := range children(n) {
		if child == nil {
			continue
		}
		if err := d.collect(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func children(n ast.Node) (list []ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			list = append(list, v.Value)
		}
	case *ast.MappingValueNode:
		list = append(list, n.Value)
	case *ast.SequenceNode:
		list = append(list, n.Values...)
	}
	return list
}

func (d *document) syntax(err error) error {
	var se yaml.Error
	if errors.As(err, &se) && se.GetToken() != nil {
		return d.at(se.GetToken(), "%s", se.GetMessage())
	}
	first, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	return d.wholeError("%s", first)
}

func (d *document) wholeError(format string, args ...any) error {
	return &Mistake{File: d.file, Message: fmt.Sprintf(format, args...)}
}

func (d *document) at(t *token.Token, format string, args ...any) error {
	if t == nil || t.Position == nil {
		return d.wholeError(format, args...)
	}
	return d.place(t.Position.Line, t.Position.Column, format, args...)
}

func (d *document) place(line, column int, format string, args ...any) error {
	m := &Mistake{File: d.file, Message: fmt.Sprintf(format, args...)}
	if line >= 1 && line <= len(d.lines) {
		m.Line, m.Column = line, max(column, 1)
		m.Text = dataset.Clip(strings.TrimSpace(d.lines[line-1]))
	}
	return m
}
