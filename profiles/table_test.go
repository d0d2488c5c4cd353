package profiles_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/test/golden"
)

// document is a profiles.yaml and its mistakes as Parse reports them, in the order of the file. A valid file has
// none.
type document struct {
	name, src string
	mistakes  []string
	schema    bool // the schema accepts it
	noYAML    bool // the schema is not asked
}

// documents reads testdata/documents.txt. Its names say why the schema cannot find a mistake.
func documents(t testing.TB) (all []document) {
	t.Helper()
	for _, c := range golden.Cases(t, "testdata/documents.txt") {
		d := document{name: c.Name, src: source(c), mistakes: c.Want, noYAML: strings.HasSuffix(c.Name, "(no YAML)")}
		d.schema = c.Want == nil || strings.Contains(c.Name, "(the schema finds nothing: ")
		all = append(all, d)
	}
	return all
}

// source returns the file of a case. Input that is indented is the text of the only profile.
func source(c golden.Case) string {
	if strings.HasPrefix(c.Input, " ") {
		return "default: a\nprofiles:\n  a:\n" + c.Input
	}
	return c.Input
}
