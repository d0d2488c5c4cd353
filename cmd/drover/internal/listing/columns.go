package listing

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"text/template/parse"
	"unicode"
	"unicode/utf8"
)

// tablePrefix begins a template that is printed as a table, as docker does: table {{.Name}}\t{{.Size}}.
const tablePrefix = "table "

// cellPrefix begins the key of a cell in the data of a template. No field has it.
const cellPrefix = "cell "

// templateName returns the name of a column in a template: UsePercent for USE%, MemoryFree for MEMORY FREE.
func templateName(header string) string {
	words := strings.NewReplacer("%", " percent", "/S", " per second", "/s", " per second", "-", " ").Replace(header)
	var b strings.Builder
	for _, w := range strings.Fields(words) {
		if w == "UUID" || w == "URL" {
			b.WriteString(w)
			continue
		}
		b.WriteString(strings.ToUpper(w[:1]) + strings.ToLower(w[1:]))
	}
	return b.String()
}

// templateNames returns the names in a template: those of the columns, then the fields that have another value than the
// column of their name.
func (k keys) templateNames() []string {
	var names []string
	for _, h := range k.headers {
		names = append(names, templateName(h))
	}
	for _, n := range k.schema.names {
		if k.columnNamed(n) == "" || !k.schema.fields[n].isPlain() {
			names = append(names, n)
		}
	}
	return names
}

// columnNamed returns the header of the column with this name in a template, or "". Case and underscores do not
// matter. UsePerc, as docker stats names such a column, and Use are UsePercent.
func (k keys) columnNamed(name string) string {
	names, headers := map[string]bool{}, map[string]string{}
	for _, h := range k.headers {
		names[templateName(h)], headers[templateName(h)] = true, h
	}
	if h, ok := headers[canonicalName(name, names)]; ok {
		return h
	}
	if strings.EqualFold(name, "use") || strings.EqualFold(name, "useperc") {
		return headers["UsePercent"]
	}
	return ""
}

// column returns the path of a column of the table, or nil if path is a field of the JSON output.
//
// A field comes before a column: path is a column only if no field has this name. For example, .Used is the column
// USED. A lower-case name stands for the value by which that column is sorted: .used is a number of bytes. There is one
// exception. If a field and a column have the same name, and the name begins with a capital and is only printed, then
// it is the column, unless the field is a time, text or boolean. So .Size is 10GiB, and .size is the number of bytes.
func (w *walker) column(path []string, printed bool) []string {
	header := ""
	if len(path) == 1 && !isAliasOfVolume(w.keys.schema, path[0]) {
		header = w.keys.columnNamed(path[0])
	}
	if header == "" {
		return nil
	}
	first, _ := utf8.DecodeRuneInString(path[0])
	capital := unicode.IsUpper(first)
	switch field := w.keys.schema.fields[canonicalName(path[0], namesOf(w.keys.schema))]; {
	case field != nil && (!capital || !printed || field.isPlain()):
		return nil
	case field == nil && !capital && w.keys.sortBy[columnKey(header)] != "":
		return strings.Split(w.keys.sortBy[columnKey(header)], ".")
	}
	w.usesCells = true
	return []string{cellPrefix + header}
}

// isPlain reports whether a template prints the field itself, even if a column has its name.
func (s *schema) isPlain() bool {
	return s.kind == scalar && (s.value == timeValue || s.value == textValue || s.value == flagValue)
}

// addCells adds the cells of an item to the data of a template. A cell that is the beginning of a text of the item,
// such as a short UUID, is replaced by the whole text, because scripts use it as a name.
func (k keys) addCells(data map[string]any, item any, cells []string) {
	for i, h := range k.headers {
		cell := cells[i]
		if field := k.fieldOf(columnKey(h)); field != "" {
			whole := texts(item, field)
			if len(whole) == 1 && strings.HasPrefix(whole[0], strings.TrimSuffix(cell, "…")) && cell != "" {
				s := k.schema.find(field)
				if s.value == uuidValue || s.value == textValue {
					cell = whole[0]
				}
			}
		}
		data[cellPrefix+h] = cell
	}
}

// header returns the first line of a table: the text of the template, with the name of the first field of each action.
// It is called before nodes, which replaces the names that the user typed.
func (w *walker) header(list *parse.ListNode) string {
	var b strings.Builder
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			b.WriteString(unescape(string(n.Text)))
		case *parse.ActionNode:
			if text, ok := literal(n.Pipe); ok {
				b.WriteString(text)
			} else if len(n.Pipe.Decl) == 0 {
				b.WriteString(w.headerOfPipe(n.Pipe))
			}
		case *parse.IfNode:
			b.WriteString(w.headerOfBranch(n.BranchNode))
		case *parse.WithNode:
			b.WriteString(w.headerOfBranch(n.BranchNode))
		case *parse.RangeNode:
			b.WriteString(w.headerOfPipe(n.Pipe))
		}
	}
	return b.String()
}

// headerOfBranch returns the header of an action with a condition: that of its text or, if it has none, of its
// condition.
func (w *walker) headerOfBranch(n parse.BranchNode) string {
	if text := w.header(n.List); strings.TrimSpace(text) != "" {
		return text
	}
	return w.headerOfPipe(n.Pipe)
}

// literal returns the text of an action that prints only a text, such as {{"\t"}}.
func literal(p *parse.PipeNode) (string, bool) {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return "", false
	}
	s, ok := p.Cmds[0].Args[0].(*parse.StringNode)
	if !ok {
		return "", false
	}
	return s.Text, true
}

// headerOfPipe returns the header for the first field of a pipeline, or "" if it has none.
func (w *walker) headerOfPipe(p *parse.PipeNode) string {
	for _, c := range p.Cmds {
		for _, arg := range c.Args {
			var path []string
			switch n := arg.(type) {
			case *parse.FieldNode:
				path = n.Ident
			case *parse.VariableNode:
				path = n.Ident[1:]
			case *parse.PipeNode:
				if h := w.headerOfPipe(n); h != "" {
					return h
				}
			}
			if len(path) > 0 {
				return w.headerOfField(path)
			}
		}
	}
	return ""
}

// headerOfField returns the header for a field as it was typed: that of the column, or the last name in upper case.
func (w *walker) headerOfField(path []string) string {
	if len(path) == 1 {
		if h := w.keys.columnNamed(path[0]); h != "" {
			return h
		}
	}
	words := wordStart.ReplaceAllString(path[len(path)-1], "$1 $2")
	return strings.ToUpper(strings.ReplaceAll(words, "_", " "))
}

// wordStart matches the start of a word in a name such as PoolName.
var wordStart = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// writer returns the writer for the lines of the template, after the header if there is one, and the function that
// ends the output.
func (t *itemTemplate) writer(out io.Writer) (w io.Writer, end func() error) {
	if !t.isTable {
		return out, func() error { return nil }
	}
	table := tabwriter.NewWriter(out, 0, 1, 3, ' ', 0)
	_, err := fmt.Fprintln(table, t.header)
	return table, func() error {
		if err != nil {
			return err
		}
		return table.Flush()
	}
}
