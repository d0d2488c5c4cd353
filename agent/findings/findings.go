// Package findings collects the lines that drover doctor reports. Package doctor makes a List for each report and
// passes it to the components and to the checks of the daemon (cmd/drover/internal/daemon), which add their findings.
// The package has no state. A new finding belongs in the component that knows the problem. A new level also needs a
// place in the order of a report (doctor.Report), and in cmd/drover/internal/findings, which shows the findings to
// users.
package findings

import (
	"fmt"

	"github.com/droverhq/drover/control/api"
)

// The levels of a finding.
const (
	OK      = "ok"
	Info    = "info"
	Warning = "warning"
	Error   = "error"
)

// List is a list of findings. The zero value is empty. It is not safe for concurrent use.
type List struct {
	All []api.Finding
}

// Add adds a finding of a level about a subject. mend says what the operator should do. It is "" if the text already
// says what to do, or if nothing must be done. The text is formatted as by fmt.Sprintf.
func (l *List) Add(level, subject, mend, format string, args ...any) {
	l.All = append(l.All, api.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Fix: mend})
}
