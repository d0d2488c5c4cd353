package main

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
)

// An archive that lacks the sockets of its volume is whole, and what it lacks is said
// once, on one line, whatever the names are.
func TestExportSaysWhatItLacks(t *testing.T) {
	for name, c := range map[string]struct {
		lacks api.OmittedFiles
		want  string
	}{
		"nothing": {},
		"one": {api.OmittedFiles{Count: 1, First: []string{"mysql.sock"}}, "drover: 1 socket was left out of the " +
			"archive, because tar does not support sockets: mysql.sock\n"},
		"many": {api.OmittedFiles{Count: 5, First: []string{"a", "b\n\x1b[2J", "c"}},
			`drover: 5 sockets were left out of the archive, because tar does not support sockets: a, b\n\x1b[2J, c and 2 more
`},
	} {
		t.Run(name, func(t *testing.T) {
			con := newConsole(&fake{data: "tar", leftOut: c.lacks})
			code := con.run(t, "volume", "export", "db")
			if code != 0 || con.err.String() != c.want || !strings.HasPrefix(con.out.String(), "tar") {
				t.Errorf("exit %d, out %q, err %q; want %q", code, con.out.String(), con.err.String(), c.want)
			}
		})
	}
}
