package composefile

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/droverhq/drover/dataset"
)

// document is a parsed file, and the replacements that were requested so far. Not safe for concurrent use.
type document struct {
	path    string
	text    []byte
	begins  []int // the offset of each line
	newline string
	root    *yaml.Node // a mapping
	edits   []replacement
	added   map[string]bool // keys that define has added
}

// replacement replaces the text from one offset to another.
type replacement struct {
	from, to int
	with     string
	note     string
}

// byteOrderMark may begin a file. The parser does not count it.
const byteOrderMark = "\ufeff"

func parse(f File) (*document, error) {
	d := &document{path: f.Path, text: f.Text, newline: "\n", added: map[string]bool{}}
	if bytes.Contains(f.Text, []byte("\r\n")) {
		d.newline = "\r\n"
	}
	if bytes.HasPrefix(f.Text, []byte(byteOrderMark)) || !utf8.Valid(f.Text) {
		return nil, dataset.Errorf(dataset.ErrInvalid, "%s: it is not plain UTF-8 without a byte order mark "+
			"(convert it first)", f.Path)
	}
	for at := 0; ; {
		d.begins = append(d.begins, at)
		n := bytes.IndexByte(f.Text[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
	}
	decoder := yaml.NewDecoder(bytes.NewReader(f.Text))
	var first, second yaml.Node
	if err := decoder.Decode(&first); err != nil {
		return nil, dataset.Errorf(dataset.ErrInvalid, "%s: it is not valid YAML: %v", f.Path, parserError(err))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, dataset.Errorf(dataset.ErrInvalid, "%s: it has several documents, which cannot be edited", f.Path)
	}
	d.root = value(first.Content[0])
	if d.root.Kind != yaml.MappingNode {
		return nil, dataset.Errorf(dataset.ErrInvalid, "%s: it is not a mapping", f.Path)
	}
	return d, nil
}

// parserLine finds the line in an error of the parser. The rest of such an error can quote the text.
var parserLine = regexp.MustCompile(`line \d+`)

func parserError(err error) string {
	if at := parserLine.FindString(err.Error()); at != "" {
		return "see its " + at
	}
	return "it cannot be parsed"
}

// pair is a key of a mapping with its value.
type pair struct{ key, value *yaml.Node }

// pairs returns the keys of a mapping in their order, or none for anything else.
func pairs(n *yaml.Node) []pair {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	out := make([]pair, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		out = append(out, pair{n.Content[i], n.Content[i+1]})
	}
	return out
}

// child returns a key of a mapping and its value, or nil.
func child(mapping *yaml.Node, name string) (key, val *yaml.Node) {
	for _, p := range pairs(mapping) {
		if p.key.Value == name {
			return p.key, p.value
		}
	}
	return nil, nil
}

// value returns the node behind an alias.
func value(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// isEmpty reports whether a value is absent in the text: "key:" and nothing behind it.
func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == ""
}

// offset returns the place of a node in the text, behind its anchor and its tag.
func (d *document) offset(n *yaml.Node) (int, error) {
	if n.Line < 1 || n.Line > len(d.begins) {
		return 0, d.errorAt(n.Line, "it cannot be edited: its place is unknown")
	}
	at := d.begins[n.Line-1]
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(d.text[at:])
		at += size
	}
	for at < len(d.text) && (d.text[at] == '&' || d.text[at] == '!') && n.Kind != yaml.AliasNode {
		for at < len(d.text) && !isSpace(d.text[at]) {
			at++
		}
		for at < len(d.text) && d.text[at] == ' ' {
			at++
		}
	}
	if at >= len(d.text) {
		return 0, d.errorAt(n.Line, "it cannot be edited: its place is unknown")
	}
	return at, nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// A scalar is the place of a value in the text. The content is without quotes.
type scalar struct {
	from, to               int // with quotes
	contentFrom, contentTo int
	quote                  byte // ' or ", or 0 for a plain value
}

// scalar returns the place of a value of one line. It fails if the text there does not read as the value.
func (d *document) scalar(n *yaml.Node) (scalar, error) {
	at, err := d.offset(n)
	if err != nil {
		return scalar{}, err
	}
	refused := d.errorAt(n.Line, "this notation of a value cannot be edited (write it in one line, without escapes)")
	if n.Kind != yaml.ScalarNode || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return scalar{}, refused
	}
	s := scalar{from: at, contentFrom: at}
	if c := d.text[at]; c == '\'' || c == '"' {
		s.quote, s.contentFrom = c, at+1
	}
	s.contentTo = s.contentFrom + len(n.Value)
	s.to = s.contentTo
	if s.quote != 0 {
		s.to++
	}
	if s.to > len(d.text) || string(d.text[s.contentFrom:s.contentTo]) != n.Value ||
		s.quote != 0 && d.text[s.contentTo] != s.quote {
		return scalar{}, refused
	}
	return s, nil
}

// replace requests the replacement of a text. It fails for a second, different replacement of the same text.
func (d *document) replace(line int, r replacement) error {
	for _, other := range d.edits {
		if other == r {
			return nil // several services use the same lines
		}
		if r.from < other.to && other.from < r.to || r.from == other.from && r.to == other.to && r.from != r.to {
			return d.errorAt(line, "two changes concern the same text")
		}
	}
	d.edits = append(d.edits, r)
	return nil
}

// set replaces a whole value of one line by the name of a volume, or another word. It keeps the quotes.
func (d *document) set(n *yaml.Node, with string) error {
	s, err := d.scalar(n)
	if err != nil || n.Value == with {
		return err
	}
	r := replacement{s.contentFrom, s.contentTo, with, n.Value + " becomes " + with}
	if s.quote == 0 && n.Tag == "!!str" {
		r.with = quoted(with)
	}
	return d.replace(n.Line, r)
}

// plain matches a text that needs no quotes in YAML.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*(@[A-Za-z0-9_.-]+)?$`)

// quoted returns a name of a volume as a value in YAML.
func quoted(name string) string {
	switch strings.ToLower(name) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
	default:
		if plain.MatchString(name) {
			return name
		}
	}
	return `"` + name + `"`
}

// lineEnd returns the offset behind the end of a line, from 1.
func (d *document) lineEnd(line int) int {
	if line < len(d.begins) {
		return d.begins[line]
	}
	return len(d.text)
}

// line returns a line, from 1, without its end.
func (d *document) line(n int) string {
	return strings.TrimRight(string(d.text[d.begins[n-1]:d.lineEnd(n)]), "\r\n")
}

// lastLine returns the last line of a key in block style, and of its value: the lines below the key that are indented
// more than the key. Comments and empty lines behind the value do not belong to it.
func (d *document) lastLine(key, val *yaml.Node) int {
	last := key.Line
	for n := key.Line + 1; n <= len(d.begins); n++ {
		text := d.line(n)
		bare := strings.TrimLeft(text, " ")
		indent := len(text) - len(bare)
		dashes := val.Kind == yaml.SequenceNode && indent == key.Column-1 && strings.HasPrefix(bare, "-")
		switch {
		case strings.TrimSpace(bare) == "", bare[0] == '#' && indent < key.Column:
			continue
		case indent >= key.Column || dashes:
			last = n
		default:
			return last
		}
	}
	return last
}

// insertLines requests new lines after a line.
func (d *document) insertLines(after int, note string, lines ...string) error {
	at, text := d.lineEnd(after), ""
	if at > 0 && d.text[at-1] != '\n' {
		text = d.newline
	}
	for _, l := range lines {
		text += l + d.newline
	}
	if !strings.HasSuffix(string(d.text), "\n") && at == len(d.text) {
		text = strings.TrimSuffix(text, d.newline)
	}
	return d.replace(after, replacement{at, at, text, note})
}

// removeLines requests the removal of a key in block style, with its value.
func (d *document) removeLines(key, val *yaml.Node) error {
	if strings.TrimLeft(d.line(key.Line)[:key.Column-1], " ") != "" {
		return d.errorAt(key.Line, "%s cannot be removed: something else is before it in its line", key.Value)
	}
	return d.replace(key.Line, replacement{d.begins[key.Line-1], d.lineEnd(d.lastLine(key, val)), "",
		key.Value + " is removed"})
}

// flowEnd returns the offset behind the bracket that closes the one at an offset. It fails for comments inside.
func (d *document) flowEnd(line, at int) (int, error) {
	depth := 0
	for i := at; i < len(d.text); i++ {
		switch c := d.text[i]; c {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1, nil
			}
		case '#':
			if isSpace(d.text[i-1]) {
				return 0, d.errorAt(line, "a comment inside of brackets would be lost (move it to its own line first)")
			}
		case '"', '\'':
			for i++; i < len(d.text) && d.text[i] != c; i++ {
				if c == '"' && d.text[i] == '\\' {
					i++
				}
			}
		}
	}
	return 0, d.errorAt(line, "its closing bracket was not found")
}

// apply returns the file with all replacements.
func (d *document) apply() Edited {
	// New lines come before a removal at the same place.
	slices.SortStableFunc(d.edits, func(a, b replacement) int { return cmp.Or(a.from-b.from, a.to-b.to) })
	var b bytes.Buffer
	var notes []Note
	at := 0
	for _, r := range d.edits {
		b.Write(d.text[at:r.from])
		b.WriteString(r.with)
		at = r.to
		line, _ := slices.BinarySearch(d.begins, r.from+1)
		if r.from == r.to && line > 1 && r.from == d.begins[line-1] {
			line-- // new lines have no line in the old file: the one before them is named
		}
		notes = append(notes, Note{line, r.note})
	}
	b.Write(d.text[at:])
	return Edited{File{d.path, b.Bytes()}, notes}
}
