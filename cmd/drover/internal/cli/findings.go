package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/api"
)

// The values of api.Finding.Level.
const (
	OK      = "ok"
	Info    = "info"
	Warning = "warning"
	Error   = "error"
)

// NeedsAttention reports whether a finding is a warning or an error.
func NeedsAttention(f api.Finding) bool { return f.Level == Warning || f.Level == Error }

// Attention returns the number of findings that need attention.
func Attention(list []api.Finding) (n int) {
	for _, f := range list {
		if NeedsAttention(f) {
			n++
		}
	}
	return n
}

// Verdict fails if a finding needs attention. It decides the exit code of drover status and drover doctor.
func Verdict(list []api.Finding) error {
	if n := Attention(list); n > 0 {
		return verdict(n)
	}
	return nil
}

// IsVerdict reports whether an error is that of Verdict: the command has worked, and printed findings that need
// attention.
func IsVerdict(err error) bool {
	var n verdict
	return errors.As(err, &n)
}

// verdict is the number of findings that need attention.
type verdict int

func (n verdict) Error() string {
	if n == 1 {
		return "1 finding needs attention"
	}
	return fmt.Sprintf("%d findings need attention", int(n))
}

// Sort puts errors first and then warnings, each in the order of their subjects.
func Sort(list []api.Finding) {
	slices.SortStableFunc(list, func(x, y api.Finding) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Text, y.Text),
			cmp.Compare(x.Fix, y.Fix))
	})
}

func rank(f api.Finding) int { return slices.Index([]string{Error, Warning, Info, OK}, f.Level) }

// FindingsTable returns the table of findings.
func FindingsTable(a *App, list []api.Finding) *Table {
	t := NewTable("LEVEL", "SUBJECT", "FINDING")
	for _, f := range list {
		t.Row(f.Level, f.Subject, f.Text)
		if f.Fix != "" { // on a separate line, because a long finding would push a column off the screen
			t.Below(2, "to do: "+f.Fix)
		}
	}
	p := a.Palette()
	t.Paint(0, func(s string) string {
		switch s {
		case OK:
			return p.Green(s)
		case Warning:
			return p.Yellow(s)
		case Error:
			return p.Red(s)
		}
		return s
	})
	return t
}

// Reported returns the findings that a node reported. If the report omits findings, Reported adds a finding that says
// so.
func Reported(n api.NodeFindings) []api.Finding {
	if n.Omitted == 0 {
		return n.Findings
	}
	return append(slices.Clone(n.Findings), api.Finding{
		Level: Warning, Subject: "agent", Text: fmt.Sprintf("has %d further findings", n.Omitted),
		Fix: "run drover doctor on that host",
	})
}

// OfNode is a finding about one node.
type OfNode struct {
	Node string
	api.Finding
}

// Merge returns the findings of nodes, sorted. Findings that differ only in the node become one. The subject names the
// nodes, unless local is the only one. The subject of a finding about a control replica says from which nodes the
// problem was seen, because the problem is not on these nodes.
func Merge(all []OfNode, local string) []api.Finding {
	nodes := map[api.Finding][]string{}
	var order []api.Finding
	for _, f := range all {
		if nodes[f.Finding] == nil {
			order = append(order, f.Finding)
		}
		if !slices.Contains(nodes[f.Finding], f.Node) {
			nodes[f.Finding] = append(nodes[f.Finding], f.Node)
		}
	}
	out := make([]api.Finding, 0, len(order))
	for _, f := range order {
		if names := nodes[f]; len(names) > 1 || names[0] != local {
			where := " on "
			if strings.HasPrefix(f.Subject, "control https:") {
				where = ", seen from "
			}
			f.Subject += where + Few(names)
		}
		out = append(out, f)
	}
	Sort(out)
	return out
}

// Few returns the first three of the sorted names, and the number of the other names.
func Few(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}
