package listing

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// An itemTemplate prints an item. Its fields are those of -o json and, for a list, the columns of the table: see
// walker.column. Each field can also be written as docker would write it: .PoolName instead of .pool_name.
type itemTemplate struct {
	*template.Template
	cmd       *cobra.Command
	keys      keys
	isTable   bool   // the template begins with "table "
	header    string // the first line of a table
	usesCells bool
}

// functions are the functions of templates, named as docker's.
var functions = template.FuncMap{
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
	"join": func(list []any, separator string) string {
		var words []string
		for _, v := range list {
			words = append(words, fmt.Sprint(v))
		}
		return strings.Join(words, separator)
	},
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
}

// Template parses the template of -o for a command that shows items in detail. It returns a function that prints an
// item with the template.
func Template[T any](cmd *cobra.Command, text string) (func(T) (string, error), error) {
	t, err := parseTemplate(cmd, keys{schema: schemaFor[T]()}, format{formatTemplate, text})
	if err != nil {
		return nil, err
	}
	return func(item T) (string, error) { return t.line(item, nil) }, nil
}

// Template is Template for a command that shows the items of the list in detail. A field that is an object, such as
// .Status, prints the column of its name, as in the list.
func (l List[T]) Template(cmd *cobra.Command, text string) (func(T) (string, error), error) {
	all := l.keys()
	k := keys{schema: all.schema, columns: map[string]int{}}
	var at []int // the positions of these columns in the table
	for i, h := range all.headers {
		if f := all.schema.fields[columnKey(h)]; f != nil && f.kind == object {
			at = append(at, i)
			k.addColumns([]string{h})
		}
	}
	t, err := parseTemplate(cmd, k, format{formatTemplate, text})
	if err != nil {
		return nil, err
	}
	return func(item T) (string, error) {
		var cells []string
		if t.usesCells {
			row := l.table([]T{item}, true).Cells()[0]
			for _, i := range at {
				cells = append(cells, row[i])
			}
		}
		return t.line(item, cells)
	}, nil
}

// parseTemplate parses the template of -o, and checks its fields. It returns nil for other formats. The error of a
// template names the fields.
func parseTemplate(cmd *cobra.Command, k keys, f format) (*itemTemplate, error) {
	if f.name != formatTemplate {
		return nil, nil //nolint:nilnil // there is no template
	}
	out := &itemTemplate{cmd: cmd, keys: k}
	text := f.template
	if after, ok := strings.CutPrefix(text, tablePrefix); ok && k.headers != nil {
		text, out.isTable = after, true
	}
	if strings.TrimSpace(text) == "" {
		return nil, out.failed(fmt.Errorf("the template is empty"))
	}
	t, err := template.New("template").Option("missingkey=zero").Funcs(functions).Parse(text)
	if err != nil {
		return nil, out.failed(err)
	}
	out.Template = t
	all := map[string]bool{}
	k.schema.allNames(all)
	w := walker{keys: k, all: all}
	if t.Tree != nil {
		out.header = w.header(t.Root)
		w.nodes(t.Root, true)
		out.usesCells = w.usesCells
	}
	return out, w.fail(cmd)
}

// failed returns the usage error for a template that cannot be parsed or run.
func (t *itemTemplate) failed(err error) error {
	text := err.Error()
	if _, after, ok := strings.Cut(text, "template: template:"); ok {
		text = "line " + after
	}
	return cli.UsageError(t.cmd, "--output template: %s (available: .%s)", text,
		strings.Join(t.keys.templateNames(), ", ."))
}

// A walker checks and corrects the fields of a template.
type walker struct {
	keys      keys
	all       map[string]bool // names of fields at any depth
	bad       string          // the first unknown field
	have      []string        // the fields that exist in its place
	usesCells bool            // a field is a column
}

// fail returns the usage error for the first unknown field, or nil if there is none.
func (w *walker) fail(cmd *cobra.Command) error {
	if w.bad == "" {
		return nil
	}
	return cli.UnknownWord(cmd, "field", "--output template", w.bad, w.have)
}

// nodes walks through a list of nodes. atItem reports whether the dot is the item.
func (w *walker) nodes(list *parse.ListNode, atItem bool) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			n.Text = []byte(unescape(string(n.Text)))
		case *parse.ActionNode:
			w.pipe(n.Pipe, atItem, onlyPrints(n.Pipe))
		case *parse.TemplateNode:
			w.pipe(n.Pipe, atItem, false)
		case *parse.IfNode:
			w.branch(n.BranchNode, atItem, atItem)
		case *parse.RangeNode:
			w.branch(n.BranchNode, atItem, false)
		case *parse.WithNode:
			w.branch(n.BranchNode, atItem, false)
		}
	}
}

// unescape replaces \t and \n in the text of a template, as docker does, because a shell does not expand them.
func unescape(text string) string { return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text) }

func (w *walker) branch(n parse.BranchNode, atItem, inside bool) {
	w.pipe(n.Pipe, atItem, false)
	w.nodes(n.List, inside)
	w.nodes(n.ElseList, atItem)
}

// onlyPrints reports whether an action prints a field as it is, or in upper or lower case.
func onlyPrints(p *parse.PipeNode) bool {
	if p == nil || len(p.Decl) > 0 || len(p.Cmds) == 0 || len(p.Cmds[0].Args) != 1 {
		return false
	}
	for _, c := range p.Cmds[1:] {
		if f, ok := c.Args[0].(*parse.IdentifierNode); !ok || f.Ident != "upper" && f.Ident != "lower" {
			return false
		}
	}
	return true
}

// pipe checks the fields of a pipeline. printed is onlyPrints.
func (w *walker) pipe(p *parse.PipeNode, atItem, printed bool) {
	if p == nil {
		return
	}
	for _, c := range p.Cmds {
		for _, arg := range c.Args {
			switch n := arg.(type) {
			case *parse.FieldNode:
				n.Ident = w.path(n.Ident, atItem, printed)
			case *parse.VariableNode:
				n.Ident = append(n.Ident[:1:1], w.path(n.Ident[1:], n.Ident[0] == "$", printed)...)
			case *parse.ChainNode:
				n.Field = w.path(n.Field, false, false)
			case *parse.PipeNode:
				w.pipe(n, atItem, false)
			}
		}
	}
}

// path checks a path of fields, and returns it with the names of the JSON output. If the path does not begin at the
// item, the type of its first object is unknown, so unknown names are accepted.
func (w *walker) path(path []string, atItem, printed bool) []string {
	at := w.keys.schema
	if !atItem {
		at = nil
	} else if column := w.column(path, printed); column != nil {
		return column
	}
	for i, name := range path {
		switch {
		case at == nil:
			path[i] = canonicalName(name, w.all)
		case at.kind == object:
			path[i] = canonicalName(name, namesOf(at))
			if i == 0 && isAliasOfVolume(at, name) {
				path[i] = "volume"
			}
			if at.fields[path[i]] == nil {
				if w.bad == "" {
					w.bad, w.have = strings.Join(path[:i+1], "."), at.names
					if i > 0 {
						w.have = prefixed(strings.Join(path[:i], ".")+".", at.names)
					} else {
						w.have = w.keys.templateNames()
					}
				}
				return path
			}
			at = at.fields[path[i]]
		case at.kind == dictionary:
			return path
		default:
			if w.bad == "" {
				w.bad, w.have = strings.Join(path[:i+1], "."), []string{strings.Join(path[:i], ".")}
			}
			return path
		}
	}
	return path
}

// isAliasOfVolume reports whether a field is the field volume, as in --filter and --sort: name, if there is no name.
func isAliasOfVolume(s *schema, name string) bool {
	return strings.EqualFold(name, "name") && s.fields["volume"] != nil &&
		s.fields[canonicalName(name, namesOf(s))] == nil
}

func prefixed(prefix string, names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, prefix+n)
	}
	return out
}

func namesOf(s *schema) map[string]bool {
	names := map[string]bool{}
	for _, n := range s.names {
		names[n] = true
	}
	return names
}

// canonicalName returns the known name that equals a name apart from case and underscores. If there is none, it returns
// the name unchanged.
func canonicalName(name string, known map[string]bool) string {
	if known[name] {
		return name
	}
	fold := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	for k := range known {
		if fold(k) == fold(name) {
			return k
		}
	}
	return name
}
