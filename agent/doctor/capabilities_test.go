package doctor

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

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
