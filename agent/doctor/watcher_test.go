package doctor

import (
	"fmt"
	"testing"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/control/api"
)

// TestSummary keeps warnings and errors in their order, each once, and counts those that are too many.
func TestSummary(t *testing.T) {
	find := func(level string, n int) api.Finding {
		return api.Finding{Level: level, Subject: fmt.Sprintf("volume %d", n), Text: "is damaged"}
	}
	all := []api.Finding{find(findings.OK, 0), find(findings.Error, 1), find(findings.Info, 2), find(findings.Warning, 3), find(findings.Error, 1)}
	got := summary(all)
	if len(got.Findings) != 2 || got.Findings[0] != find(findings.Error, 1) || got.Findings[1] != find(findings.Warning, 3) || got.Omitted != 0 {
		t.Errorf("summary of an error twice and a warning: %+v, want each once", got)
	}
	all = nil
	for n := range api.MaxReportedFindings + 7 {
		all = append(all, find(findings.Warning, n))
	}
	if got := summary(all); len(got.Findings) != api.MaxReportedFindings || got.Omitted != 7 {
		t.Errorf("%d findings and %d omitted, want %d and 7", len(got.Findings), got.Omitted, api.MaxReportedFindings)
	}
}
