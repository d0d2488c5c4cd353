package doctor

import (
	"strconv"
	"testing"

	"github.com/droverhq/drover/agent/findings"
)

// Doctor begins with what is wrong, and leaves the rest as it was.
func TestDoctorBeginsWithWhatIsWrong(t *testing.T) {
	r := &Report{}
	for i, level := range []string{findings.OK, findings.Warning, findings.Info, findings.Error, findings.OK, findings.Warning, findings.Error} {
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
