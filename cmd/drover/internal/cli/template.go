package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

// templateFunctions are the functions of templates, named as Docker's.
var templateFunctions = template.FuncMap{
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

// ParseTemplate parses the value of --format, a template of package text/template. As in Docker, \t and \n stand for
// the characters, because a shell does not expand them.
func ParseTemplate(cmd *cobra.Command, text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("").Funcs(templateFunctions).Parse(text)
	if err != nil {
		return nil, TemplateError(cmd, err)
	}
	return t, nil
}

// TemplateError is the usage error for a template that cannot be parsed or executed.
func TemplateError(cmd *cobra.Command, err error) error {
	return UsageError(cmd, "--format: %s", strings.Replace(err.Error(), "template: :", "line ", 1))
}

// printObject prints an item with a template whose names are those of the JSON output. A field that the item does not
// have prints nothing.
func (a *App) printObject(cmd *cobra.Command, t *template.Template, item any) error {
	b, err := json.Marshal(item)
	if err != nil {
		return err
	}
	var object any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		return err
	}
	var out strings.Builder
	if err := t.Execute(&out, cleaned(object)); err != nil {
		return TemplateError(cmd, err)
	}
	_, err = fmt.Fprintln(a.Out, strings.ReplaceAll(out.String(), "<no value>", ""))
	return err
}

// cleaned returns decoded JSON without control characters, which could control the terminal.
func cleaned(v any) any {
	switch v := v.(type) {
	case string:
		return Clean(v)
	case map[string]any:
		for key := range v {
			v[key] = cleaned(v[key])
		}
	case []any:
		for i := range v {
			v[i] = cleaned(v[i])
		}
	}
	return v
}
