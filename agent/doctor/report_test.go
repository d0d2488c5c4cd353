package doctor

import (
	"strconv"
	"testing"

	"github.com/droverhq/drover/agent/host"
)

// The report of doctor begins with the problems, and keeps the order of the other findings.
func TestDoctorBeginsWithWhatIsWrong(t *testing.T) {
	r := &Report{}
	for i, level := range []string{host.OK, host.Warning, host.Info, host.Error, host.OK, host.Warning, host.Error} {
		r.Add(level, strconv.Itoa(i), "", "")
	}
	r.sort()
	got := ""
	for _, f := range r.All {
		got += f.Subject
	}
	if got != "3615024" {
		t.Errorf("in the order %s", got)
	}
}
