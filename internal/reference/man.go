package reference

import (
	"fmt"
	"strings"
)

// ManName returns the name of the man page: profiles.yaml is described by drover-profiles(5), drover.yaml by
// drover.yaml(5).
func (p Page) ManName() string {
	if name, ok := strings.CutSuffix(p.File, ".yaml"); ok && name != "drover" {
		return "drover-" + name
	}
	return p.File
}

// Man returns the page as a man page of section 5. version is the version of the program.
func (p Page) Man(version string) (string, error) {
	keys, err := p.Keys()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	name := p.ManName()
	fmt.Fprintf(&b, ".TH %s 5 \"\" \"drover %s\" \"Drover\"\n", roff(strings.ToUpper(name)), roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- keys of %s\n", roff(name), roff(p.File))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(plain(p.About)))
	for _, n := range p.Notes {
		fmt.Fprintf(&b, ".PP\n%s\n", roff(plain(n)))
	}
	b.WriteString(".SH KEYS\n")
	for _, k := range keys {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n.br\nType: %s. Default: %s.\n.br\n", roff(k.Path), roff(k.Description),
			roff(k.Type), roff(defaultOf(k)))
		fmt.Fprintf(&b, "Changes live: %s.\n.br\nExample: %s\n", roff(k.Live), roff(inContext(k)))
	}
	b.WriteString(".SH TYPES\n")
	for _, t := range TypeNames() {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(t), roff(types[t]))
	}
	b.WriteString(".SH SEE ALSO\n.BR drover (1)\n")
	return b.String(), nil
}

// plain removes the marks of Markdown.
func plain(s string) string { return strings.NewReplacer("`", "", "*", "").Replace(s) }

// roff escapes text for a man page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
