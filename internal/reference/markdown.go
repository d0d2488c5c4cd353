package reference

import (
	"fmt"
	"strings"
)

// Markdown returns the page for docs/reference.
func (p Page) Markdown() (string, error) {
	keys, err := p.Keys()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Keys of %s\n\n%s\n\n", p.File, wrap(p.About))
	for _, n := range p.Notes {
		b.WriteString(wrap(n) + "\n\n")
	}
	source := "This page is generated from the JSON schema of the file, as are `man 5 " + p.ManName() +
		"` and the completion of editors that use the schema."
	b.WriteString(wrap(source) + "\n\n")
	b.WriteString("| key | type | default | example | changes live |\n|---|---|---|---|---|\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s | %s | %s |\n", k.Path, anchor(k.Path), cell(k.Type),
			cell(defaultOf(k)), code(k.Example), cell(k.Live))
	}
	b.WriteString("\nTypes:\n\n")
	for _, t := range TypeNames() {
		b.WriteString(wrap("- **"+t+"**: "+types[t]) + "\n")
	}
	for _, k := range keys {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", k.Path, wrap(k.Description))
		fmt.Fprintf(&b, "Type: %s. Default: %s. Changes live: %s.\n\n```yaml\n%s\n```\n", k.Type, defaultOf(k), k.Live,
			inContext(k))
	}
	return b.String(), nil
}

// defaultOf returns the default of a key, or that it is required.
func defaultOf(k Key) string {
	if k.Default == "" {
		return "required"
	}
	return k.Default
}

// inContext returns the example as a line of YAML, such as "size: 20GiB". Its key is the last element of the path.
func inContext(k Key) string {
	name := k.Path[strings.LastIndex(k.Path, ".")+1:]
	return name + ": " + k.Example
}

func anchor(path string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '[' || r == ']' {
			return -1
		}
		return r
	}, strings.ToLower(path))
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", "\\|") + "`"
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
