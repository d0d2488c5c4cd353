package reference

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// Markdown returns the page for docs/reference.
func (p Page) Markdown() (string, error) {
	text, err := p.text()
	return "# Keys of " + p.File + "\n\n" + text, err
}

// Man returns the page as a man page of section 5. version is the version of the program.
func (p Page) Man(version string) (string, error) {
	text, err := p.text()
	title := fmt.Sprintf("%% %q \"5\" \"\" %q \"Drover\"\n# NAME\n%s - keys of the file\n# DESCRIPTION\n",
		strings.ToUpper(p.File), "drover "+version, p.File)
	return string(md2man.Render([]byte(title + text))), err
}

// text returns the text that the Markdown page and the man page have in common.
func (p Page) text() (string, error) {
	keys, err := p.Keys()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, paragraph := range append([]string{p.About}, p.Notes...) {
		b.WriteString(wrap(paragraph) + "\n\n")
	}
	b.WriteString("This page is generated from the JSON schema of the file.\n\n")
	for _, t := range slices.Sorted(maps.Keys(types)) {
		b.WriteString(wrap("- **"+t+"**: "+types[t]) + "\n")
	}
	for _, k := range keys {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", k.Path, wrap(k.Description))
		byDefault := k.Default
		byDefault = cmp.Or(byDefault, "required")
		name := k.Path[strings.LastIndex(k.Path, ".")+1:]
		fmt.Fprintf(&b, "Type: %s. Default: %s. Changes live: %s.\n\n```yaml\n%s: %s\n```\n", k.Type, byDefault, k.Live,
			name, k.Example)
	}
	return b.String(), nil
}

// lineWidth is the width of lines in documents.
const lineWidth = 120

// wrap breaks a paragraph into lines.
func wrap(s string) string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(s) {
		if line != "" && len([]rune(line))+1+len([]rune(w)) > lineWidth {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return strings.Join(append(lines, line), "\n")
}
