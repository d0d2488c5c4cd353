package doctor

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// The report of doctor begins with the problems, and keeps the order of the other findings.
func TestDoctorBeginsWithWhatIsWrong(t *testing.T) {
	r := &Report{}
	for i, level := range []string{api.LevelOK, api.LevelWarning, api.LevelInfo, api.LevelError, api.LevelOK, api.LevelWarning, api.LevelError} {
		r.Add(&condition.Condition{Level: level}, strconv.Itoa(i), "")
	}
	r.sort()
	got := ""
	for _, f := range r.List {
		got += f.Subject
	}
	if got != "3615024" {
		t.Errorf("in the order %s", got)
	}
}

// lacking is a backend that cannot work here.
type lacking struct {
	backends.Kind
	why string
}

func (lacking) Name() string { return "thin" }
func (l lacking) Available(context.Context) error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s", l.why)
}

// A finding names its backend once.
func TestDoctorNamesABackendOnce(t *testing.T) {
	for why, want := range map[string]string{
		"backend thin needs lvm(8)":    "cannot work on this host: it needs lvm(8)",
		"backend thin: no dm-thin":     "cannot work on this host: no dm-thin",
		"backend thinner was expected": "cannot work on this host: backend thinner was expected",
	} {
		rep := &Report{}
		CheckBackends(t.Context(), rep, []backends.Kind{lacking{why: why}}, nil)
		if len(rep.List) != 1 || rep.List[0].Subject != "backend thin" || rep.List[0].Text != want {
			t.Errorf("%q: %+v", why, rep.List)
		}
	}
}

// The report says that a pool lacks the capabilities that it does not have, and no others.
func TestLacks(t *testing.T) {
	whole := dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, Shrink: true,
		OwnFilesystem: true, OwnDevice: true, Delta: true, Encryption: true,
	}
	if got := missingCapabilities(whole, false); len(got) > 0 {
		t.Errorf("a pool that has all lacks %q", got)
	}
	whole.OfflineGrow, whole.Shrink = []string{"ext4"}, false
	if got := strings.Join(missingCapabilities(whole, false), "; "); got != "ext4 cannot grow while in use; a volume cannot shrink" {
		t.Errorf("it lacks %q", got)
	}
	whole.Delta = false
	if got := strings.Join(missingCapabilities(whole, true), "; "); !strings.HasSuffix(got, "; a move to a host without the share copies all files, and there are no replicas") {
		t.Errorf("on a share %s", got)
	}
}

// Doctor names an offline pool once.
func TestDoctorNamesAPoolOnce(t *testing.T) {
	for why, want := range map[string]string{
		"no disk":                         "no disk",
		"pool fast is offline: no disk":   "no disk",
		"pool fast: no disk":              "no disk",
		"pool faster is offline: no disk": "pool faster is offline: no disk",
	} {
		if got := offlineReason("fast", why); got != want {
			t.Errorf("%q: %q, want %q", why, got, want)
		}
	}
}
