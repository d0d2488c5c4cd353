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

// An itemTemplate prints an item. Its fields are those of -o json. Each field can also be written as docker would write
// it: .PoolName instead of .pool_name.
type itemTemplate struct {
	*template.Template
	cmd    *cobra.Command
	schema *schema
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
	s := schemaFor[T]()
	t, err := parseTemplate(cmd, s, format{formatTemplate, text})
	if err != nil {
		return nil, err
	}
	return func(item T) (string, error) { return t.line(s, item) }, nil
}

// parseTemplate parses the template of -o, and checks its fields. It returns nil for other formats. The error of a
// template names the fields.
func parseTemplate(cmd *cobra.Command, s *schema, f format) (*itemTemplate, error) {
	if f.name != formatTemplate {
		return nil, nil //nolint:nilnil // there is no template
	}
	out := &itemTemplate{cmd: cmd, schema: s}
	if strings.TrimSpace(f.template) == "" {
		return nil, out.failed(fmt.Errorf("the template is empty"))
	}
	t, err := template.New("template").Option("missingkey=zero").Funcs(functions).Parse(f.template)
	if err != nil {
		return nil, out.failed(err)
	}
	out.Template = t
	all := map[string]bool{}
	s.allNames(all)
	w := walker{schema: s, all: all}
	if t.Tree != nil {
		w.nodes(t.Root, true)
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
		strings.Join(t.schema.names, ", ."))
}

// A walker checks and corrects the fields of a template.
type walker struct {
	schema *schema
	all    map[string]bool // names of fields at any depth
	bad    string          // the first unknown field
	have   []string        // the fields that exist in its place
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
		case *parse.TextNode: // as docker does, because a shell does not expand them
			n.Text = []byte(strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(string(n.Text)))
		case *parse.ActionNode:
			w.pipe(n.Pipe, atItem)
		case *parse.TemplateNode:
			w.pipe(n.Pipe, atItem)
		case *parse.IfNode:
			w.branch(n.BranchNode, atItem, atItem)
		case *parse.RangeNode:
			w.branch(n.BranchNode, atItem, false)
		case *parse.WithNode:
			w.branch(n.BranchNode, atItem, false)
		}
	}
}

func (w *walker) branch(n parse.BranchNode, atItem, inside bool) {
	w.pipe(n.Pipe, atItem)
	w.nodes(n.List, inside)
	w.nodes(n.ElseList, atItem)
}

func (w *walker) pipe(p *parse.PipeNode, atItem bool) {
	if p == nil {
		return
	}
	for _, c := range p.Cmds {
		for _, arg := range c.Args {
			switch n := arg.(type) {
			case *parse.FieldNode:
				w.path(n.Ident, atItem)
			case *parse.VariableNode:
				w.path(n.Ident[1:], n.Ident[0] == "$")
			case *parse.ChainNode:
				w.path(n.Field, false)
			case *parse.PipeNode:
				w.pipe(n, atItem)
			}
		}
	}
}

// path checks a path of fields. If the path does not begin at the item, the type of its first object is unknown, so
// unknown names are accepted.
func (w *walker) path(path []string, atItem bool) {
	at := w.schema
	if !atItem {
		at = nil
	}
	for i, name := range path {
		switch {
		case at == nil:
			path[i] = canonicalName(name, w.all)
		case at.kind == object:
			path[i] = canonicalName(name, namesOf(at))
			if i == 0 && at.fields[path[i]] == nil && strings.EqualFold(name, "name") && at.fields["volume"] != nil {
				path[i] = "volume" // as in --filter and --sort
			}
			if at.fields[path[i]] == nil {
				if w.bad == "" {
					w.bad, w.have = strings.Join(path[:i+1], "."), at.names
					if i > 0 {
						w.have = prefixed(strings.Join(path[:i], ".")+".", at.names)
					}
				}
				return
			}
			at = at.fields[path[i]]
		case at.kind == dictionary:
			return
		default:
			if w.bad == "" {
				w.bad, w.have = strings.Join(path[:i+1], "."), []string{strings.Join(path[:i], ".")}
			}
			return
		}
	}
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
