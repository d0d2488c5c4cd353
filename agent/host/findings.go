package host

import (
	"fmt"

	"github.com/droverhq/drover/control/api"
)

// The levels of a finding.
const (
	OK      = api.LevelOK
	Info    = api.LevelInfo
	Warning = api.LevelWarning
	Error   = api.LevelError
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
