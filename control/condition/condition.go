// Package condition has the list of all conditions that Drover reports: what can be wrong with a host, a volume, the
// cluster or a command, and what works. A condition has one row, with its code, its severity and its text. A part that
// notices a condition names the row and gives the values for the text, so that drover status, drover doctor, the health
// of the cluster, the metrics and the alert rules cannot disagree about it. docs/reference/conditions.md is this list.
//
// To add a condition, add a row in the file of the part that finds it: host.go, control.go or client.go.
package condition

import (
	"cmp"
	"fmt"

	"github.com/droverhq/drover/control/api"
)

// Condition is a row of the list. Rows never change.
type Condition struct {
	Code   string   // stable: programs rely on it
	Level  string   // severity: one of the levels of api.Finding
	Text   string   // a format in which each value is %v, so that only the number of values can be wrong
	Fix    string   // what the operator should do, if that is always the same
	Ends   string   // when it ends; "" for what works
	Source string   // who finds it
	Alerts []string // the alerts of drover.rules.yaml about it
}

// Finding returns a finding of the condition about a subject. fix says what the operator should do. If it is "", Fix
// applies. The finding needs nothing to be done if both are empty, or the text says what to do.
func (c *Condition) Finding(subject, fix string, values ...any) api.Finding {
	return api.Finding{
		Condition: c.Code, Level: c.Level, Subject: subject, Text: fmt.Sprintf(c.Text, values...),
		Fix: cmp.Or(fix, c.Fix),
	}
}

// Is reports whether a finding is one of the condition.
func (c *Condition) Is(f api.Finding) bool { return f.Condition == c.Code }

// List is a list of findings. It is not safe for concurrent use.
type List []api.Finding

// Add adds a finding: see Condition.Finding.
func (l *List) Add(c *Condition, subject, fix string, values ...any) {
	*l = append(*l, c.Finding(subject, fix, values...))
}

// all has the rows, in the order of the files.
var all []*Condition

// source is who finds a condition.
type source string

func (s source) add(level, code, text, ends string) *Condition {
	c := &Condition{Code: code, Level: level, Text: text, Ends: ends, Source: string(s)}
	all = append(all, c)
	return c
}

func (s source) error(code, text, ends string) *Condition {
	return s.add(api.LevelError, code, text, ends)
}

func (s source) warning(code, text, ends string) *Condition {
	return s.add(api.LevelWarning, code, text, ends)
}

func (s source) info(code, text, ends string) *Condition {
	return s.add(api.LevelInfo, code, text, ends)
}

func (s source) ok(code, text string) *Condition { return s.add(api.LevelOK, code, text, "") }

func (c *Condition) fix(remedy string) *Condition {
	c.Fix = remedy
	return c
}

func (c *Condition) alert(names ...string) *Condition {
	c.Alerts = names
	return c
}
