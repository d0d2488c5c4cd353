package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAliases runs commands by the words of other tools. They print the same as the command.
func TestAliases(t *testing.T) {
	for alias, command := range map[[3]string][3]string{
		{"volume", "list"}:             {"volume", "ls"},
		{"pool", "list"}:               {"pool", "ls"},
		{"volume", "show", "db"}:       {"volume", "inspect", "db"},
		{"profile", "inspect", "gold"}: {"profile", "show", "gold"},
		{"volume", "delete", "db"}:     {"volume", "rm", "db"},
		{"volume", "remove", "db"}:     {"volume", "rm", "db"},
		{"volume", "delete"}:           {"volume", "rm"},
		{"help", "volume", "delete"}:   {"help", "volume", "rm"},
	} {
		output := func(words [3]string) string {
			c := newConsole(theWorld())
			scenarios["deletes"](c)
			var args []string
			for _, w := range words {
				if w != "" {
					args = append(args, w)
				}
			}
			code := c.run(t, args...)
			return c.out.String() + c.err.String() + string(rune('0'+code))
		}
		if d := cmp.Diff(output(command), output(alias)); d != "" {
			t.Errorf("%v (-%v +alias):\n%s", alias, command, d)
		}
	}
}
